"""`blip evaluate`: a model and a data set -> how good the model is."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blip_core.checks import METHODS
from blip_core.cli.arguments import (
    add_data_arguments,
    add_length_arguments,
    add_model_arguments,
    generation_options,
    store_cache,
    whole,
)
from blip_core.cli.load_model import load, load_head
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report, json_line
from blip_core.datasets import Dataset, open_dataset
from blip_core.evaluation import PRESETS, Evaluation, Preset, loading_options
from blip_core.evaluation.common import by_picture
from blip_core.evaluation.presets import describe_settings, get_preset
from blip_core.files import write_json
from blip_core.inference import Matcher
from blip_core.jobs.progress import Progress
from blip_core.processing.video import is_video_file
from blip_core.tasks import TASKS, Task, get_task

RERANK = 256
CANDIDATES = 128
WORDS = 30


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
    presets = {name: row for name, row in PRESETS.items() if row.task == task.name}
    figures = [f"{name}: {row.figures}; {row.checkpoint}; {row.split}." for name, row in presets.items()]
    text = f"Evaluate {task.description}." + (" Presets, and what was published with them: " if figures else "")
    parser.describe("--data PATH... [options]", text + " ".join(figures), example)
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="PATH", help="files or folders of any form in docs/data.md"
    )
    add_data_arguments(parser)
    if presets:
        parser.add_argument(
            "--preset", choices=presets, metavar="NAME", help=f"as the original does: {', '.join(presets)}"
        )
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
        parser.add_argument("--rerank", type=whole(0), metavar="N", help=f"match the N best one by one ({RERANK})")
    if "frames" in task.evaluation_options:
        parser.add_argument("--frames", type=whole(1), metavar="N", help="look at N frames of a video (1: the middle)")
    if "max_words" in task.evaluation_options:
        parser.add_argument("--max-words", type=whole(1), metavar="N", help=f"words of a caption that count ({WORDS})")
    if "matcher" in task.evaluation_options:
        parser.add_argument(
            "--matcher", metavar="MODEL", help="add the similarity of captions and pictures by this matching model"
        )
    if "detections" in task.evaluation_options:
        parser.add_argument("--method", choices=METHODS, help="attention weighted by its gradient (so), or alone")
        parser.add_argument("--layer", type=whole(0), metavar="N", help="layer of the text encoder, from 0 (7 of 12)")
        parser.add_argument(
            "--detections", metavar="FILE", help="choose among boxes of a detector: a JSON of ALBEF's form"
        )
    parser.add_argument("--output", metavar="FILE", help="write all results, one by one, to a .json file")
    if task.official:
        parser.add_argument(
            "--predictions", metavar="FILE", help=f"write {' and '.join(task.official)} alone, to a .json file"
        )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_model_arguments(parser)
    parser.set_defaults(task=task.name, parser=parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Evaluate a model; returns the exit code, 1 where an example was left out."""
    task, parser = get_task(args.task), args.parser
    assert task.evaluate is not None  # otherwise it is no subcommand
    files = {name: getattr(args, name, None) for name in ("output", "predictions")}
    for name, file in files.items():
        if file and not file.lower().endswith(".json"):
            parser.error(f"argument --{name}: must end in .json, got {file!r}")
    preset = get_preset(args.preset, task.name) if getattr(args, "preset", None) else None
    options = task_options(args, parser, task, preset)
    dataset = open_dataset(args.data, task.name, args.image_root, args.split, store_cache(args, parser))
    check_data(dataset, task, args, preset)
    over = loading_options(preset, args.model, args.revision) if preset else {}
    if over:
        print(f"blip: {tell_changes(args.preset, over)}", file=sys.stderr)
    loaded = load_head(task.head, args, **over)
    if getattr(args, "matcher", None):
        options["matcher"] = load(Matcher, args, "matcher")
    pictures = len(dataset) if task.pictures > 1 else len(by_picture(dataset))
    total = pictures * (2 if options.get("rerank") or "matcher" in options else 1)
    place = args.output or getattr(args, "predictions", None)

    def count_problems() -> int:
        return len(dataset.problems)

    with Progress(f"evaluate {task.name}", total, place, events=args.json, problems=count_problems) as bar:
        result = task.evaluate(
            loaded.model,
            loaded.processor,
            dataset,
            unlabelled=any(files.values()),
            batch_size=args.batch_size,
            progress=bar.step,
            **options,
        )
    summary: dict[str, Any] = {"task": task.name, "model": args.model or "shipped", "engine": loaded.engine.name}
    summary |= {"preset": args.preset} if preset else {}
    summary |= {"counted": result.counted, "left_out": len(result.problems), "metrics": result.metrics}
    show(summary, result, args.json)
    if files["output"]:
        problems = [{"example": key, "error": reason} for key, reason in result.problems]
        write_json(files["output"], {**summary, "examples": result.entries, "problems": problems})
    if files["predictions"]:
        rows = [{name: entry[name] for name in task.official if name in entry} for entry in result.entries]
        write_json(files["predictions"], rows)
    return 1 if result.problems else 0


def task_options(args: argparse.Namespace, parser: CommandParser, task: Task, preset: Preset | None) -> dict[str, Any]:
    """The keywords that the evaluation of a task has beside the common ones: the preset's, and over them the user's."""
    options = dict(preset.options) if preset else {}
    if preset and preset.needs and getattr(args, preset.needs) is None:
        parser.error(
            f"argument --preset: {args.preset} ranks the answers of a list; name it by --{preset.needs}, such as the "
            "answer_list.json that the original publishes beside its VQA data"
        )
    for name in ("prompt", "rerank", "frames", "max_words", "method", "layer"):
        if name in task.evaluation_options and (value := getattr(args, name)) is not None:
            options[name] = value
    if "rerank" in task.evaluation_options:
        options.setdefault("rerank", RERANK)
    if getattr(args, "detections", None) is not None:
        options["detections"] = read_detections(args.detections)
    if getattr(args, "choices", None) is not None:
        if given := [name for name in ("beams", "min_tokens", "max_tokens") if getattr(args, name) is not None]:
            parser.error(f"argument --{given[0].replace('_', '-')}: answers are not generated with --choices")
        if preset and not preset.needs:
            parser.error(f"argument --choices: answers are generated with --preset {args.preset}")
        candidates = args.candidates or options.get("candidates", CANDIDATES)
        return {**options, "choices": read_choices(args.choices), "candidates": candidates}
    if getattr(args, "candidates", None) is not None:
        parser.error("argument --candidates: needs --choices")
    if "generation" in task.evaluation_options:
        lengths = {"num_beams": args.beams, "min_new_tokens": args.min_tokens, "max_new_tokens": args.max_tokens}
        options |= generation_options(parser, **lengths)
    return options


def check_data(dataset: Dataset, task: Task, args: argparse.Namespace, preset: Preset | None) -> None:
    """Refuse data that lack what is asked for, before a model is loaded, and warn of those that it was trained with."""

    def any_picture(test: Callable[[str], bool]) -> bool:
        return any(test(picture.name) for example in dataset for picture in example.images)

    if preset and preset.videos and not any_picture(is_video_file):
        named = dataset[0].images[0].name
        raise ValueError(f"The preset {args.preset} needs videos, and the data name pictures such as {named}.")
    if getattr(args, "predictions", None) and "question_id" in task.official:
        lacking = next((example.key for example in dataset if example.question_id is None), None)
        if lacking is not None:
            raise ValueError(f"--predictions names answers by their question_id, and {lacking} has none.")
    if task.seen and any_picture(lambda name: os.path.basename(name).startswith(task.seen)):
        print(
            f"blip: some pictures ({' or '.join(task.seen)}...) are of splits that the original's checkpoints for "
            f"{task.name} were trained with: of these, the result says nothing about unseen ones",
            file=sys.stderr,
        )


def tell_changes(preset: str, over: dict[str, Any]) -> str:
    """Say what a preset changes in a checkpoint for the evaluation."""
    changes = [f"sets what the checkpoint lacks ({describe_settings(over['config'])})"] if "config" in over else []
    changes += [f"gives it pictures of {over['image_size']} pixels"] if "image_size" in over else []
    return f"as the original evaluates, --preset {preset} {' and '.join(changes)}"


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


def read_detections(path: str) -> dict[str, Any]:
    """Read the boxes of a detector, {image_id: [[x, y, width, height, ...], ...]}; raises `ValueError` for others."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object of boxes by image_id: {error}.") from None

    def is_box(box: Any) -> bool:
        numbers = isinstance(box, list) and len(box) >= 4 and all(isinstance(side, int | float) for side in box[:4])
        return numbers and all(map(math.isfinite, box[:4])) and min(box[2:4]) > 0

    for number, boxes in found.items() if isinstance(found, dict) else [("", found)]:
        if not isinstance(boxes, list) or not number or not all(map(is_box, boxes)):
            where = f" of picture {number}" if number else ""
            raise ValueError(f"{path} must hold boxes [x, y, width, height] by image_id, got {boxes!r:.80}{where}.")
    return dict(found)


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
    width = max(map(len, result.metrics), default=0)
    for name, value in result.metrics.items():
        print(f"  {name:{width}}  {value:.4f}")
