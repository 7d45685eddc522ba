"""`blip evaluate`: a model and a data set -> how good the model is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from blip_core.cli.arguments import (
    add_data_arguments,
    add_length_arguments,
    add_model_arguments,
    generation_options,
    whole,
)
from blip_core.cli.load_model import load_head
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report, json_line
from blip_core.datasets import open_dataset
from blip_core.evaluation import Evaluation
from blip_core.evaluation.common import by_picture
from blip_core.files import write_json
from blip_core.tasks import TASKS, Task, get_task

RERANK = 256
CANDIDATES = 128


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add a subcommand for each task."""
    parser.describe(
        "TASK --data PATH... [options]",
        "Measure how good a model is on a data set. Each task explains its options: blip evaluate TASK --help.",
        "blip evaluate caption --data captions.jsonl",
    )
    tasks = parser.add_subparsers(prog=parser.prog, title="tasks", metavar="TASK", required=True)
    for task in TASKS.values():
        if task.evaluate is not None:
            add_task(tasks.add_parser(task.name, help=task.description), task)


def add_task(parser: CommandParser, task: Task) -> None:
    """Add the arguments of one task."""
    example = f"blip evaluate {task.name} --data {task.name}.jsonl"
    parser.describe("--data PATH... [options]", f"Evaluate {task.description}.", example)
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="PATH", help="files or folders of any form in docs/data.md"
    )
    add_data_arguments(parser)
    parser.add_argument("--batch-size", type=whole(1), default=8, metavar="N", help="pictures at a time (8)")
    if "prompt" in task.evaluation_options:
        parser.add_argument("--prompt", help="what captions begin with, unless given what the model was trained with")
    if "choices" in task.evaluation_options:
        parser.add_argument("--choices", metavar="FILE", help="choose from these answers: a JSON list, or one a line")
        parser.add_argument(
            "--candidates", type=whole(1), metavar="N", help=f"with --choices: score the N likeliest ({CANDIDATES})"
        )
    if "generation" in task.evaluation_options:
        add_length_arguments(parser)
    if "rerank" in task.evaluation_options:
        parser.add_argument(
            "--rerank", type=whole(0), default=RERANK, metavar="N", help=f"match the N best one by one ({RERANK})"
        )
    parser.add_argument("--output", metavar="FILE", help="write all results, one by one, to a .json file")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_model_arguments(parser)
    parser.set_defaults(task=task.name, parser=parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Evaluate a model; returns the exit code, 1 where an example was left out."""
    task, parser = get_task(args.task), args.parser
    assert task.evaluate is not None  # otherwise it is no subcommand
    if args.output and not args.output.lower().endswith(".json"):
        parser.error(f"argument --output: must end in .json, got {args.output!r}")
    options = task_options(args, parser, task)
    dataset = open_dataset(args.data, task.name, args.image_root, args.split)
    loaded = load_head(task.head, args)
    pictures = len(dataset) if task.pictures > 1 else len(by_picture(dataset))
    total = pictures * (2 if options.get("rerank") else 1)
    with tqdm(total=total, unit="picture", disable=None) as bar:
        result = task.evaluate(
            loaded.model,
            loaded.processor,
            dataset,
            batch_size=args.batch_size,
            progress=bar.update,
            **options,
        )
    summary = {
        "task": task.name,
        "model": args.model or "shipped",
        "engine": loaded.engine.name,
        "counted": result.counted,
    }
    summary |= {"left_out": len(result.problems), "metrics": result.metrics}
    show(summary, result, args.json)
    if args.output:
        problems = [{"example": key, "error": reason} for key, reason in result.problems]
        write_json(args.output, {**summary, "examples": result.entries, "problems": problems})
    return 1 if result.problems else 0


def task_options(args: argparse.Namespace, parser: CommandParser, task: Task) -> dict[str, Any]:
    """The keywords that the evaluation of a task has beside the common ones."""
    options: dict[str, Any] = {
        name: getattr(args, name) for name in ("prompt", "rerank") if name in task.evaluation_options
    }
    if getattr(args, "choices", None) is not None:
        if given := [name for name in ("beams", "min_tokens", "max_tokens") if getattr(args, name) is not None]:
            parser.error(f"argument --{given[0].replace('_', '-')}: answers are not generated with --choices")
        return {**options, "choices": read_choices(args.choices), "candidates": args.candidates or CANDIDATES}
    if getattr(args, "candidates", None) is not None:
        parser.error("argument --candidates: needs --choices")
    if "generation" in task.evaluation_options:
        lengths = {"num_beams": args.beams, "min_new_tokens": args.min_tokens, "max_new_tokens": args.max_tokens}
        options |= generation_options(parser, **lengths)
    return options


def read_choices(path: str) -> list[str]:
    """Read a list of answers: a JSON array of texts, or one a line. Raises `ValueError` where there are none."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        choices = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON list of answers, or one a line: {error}.") from None
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError(
            f"{path} must hold texts alone, got {next(c for c in choices if not isinstance(c, str))!r:.80}."
        )
    choices = [choice.strip() for choice in choices if choice.strip()]
    if not choices:
        raise ValueError(f"{path} holds no answers to choose from.")
    return choices


def show(summary: dict[str, Any], result: Evaluation, as_json: bool) -> None:
    """Print what was left out, on standard error, and the metrics."""
    report = Report(as_json=False)
    for key, reason in result.problems:
        report.problem(key, reason)
    if as_json:
        print(json_line(summary), end="")
        return
    counted = ", ".join(f"{count:,} {name}" for name, count in result.counted.items())
    left_out = f" ({len(result.problems):,} left out)" if result.problems else ""
    print(f"{summary['task']} over {counted}{left_out}")
    width = max(map(len, result.metrics))
    for name, value in result.metrics.items():
        print(f"  {name:{width}}  {value:.4f}")
