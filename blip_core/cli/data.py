"""`blip data`: what data sets are recognised as, what is in them, and what of it cannot be used."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from blip_core.cli.arguments import add_data_arguments, store_cache, whole
from blip_core.cli.data_page import write_page
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import json_line, printable
from blip_core.datasets import Dataset, Picture
from blip_core.datasets.sources import ALL, guess_task, read_dataset
from blip_core.datasets.spool import group
from blip_core.jobs.progress import Progress
from blip_core.jobs.read_ahead import READERS, in_one_line, read_batches
from blip_core.tasks import TASKS, get_task

CHECK = "check"
EXAMPLES, SHOWN = 3, 10
BATCH = 64


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "[check] PATH... [options]",
        "Say what data sets are recognised as, how much is in them, and what of it cannot be used, before hours are "
        "spent. The exit code is 1 where anything cannot be used.",
        "blip data check captions_train2014.json --image-root train2014",
        "blip data check dataset_coco.json --split test --html coco.html",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or folders of any form in docs/data.md")
    parser.add_argument("--task", choices=TASKS, metavar="TASK", help=f"{', '.join(TASKS)} (what the form is for)")
    add_data_arguments(parser)
    parser.add_argument("--read-pictures", action="store_true", help="decode every picture, too, to find broken ones")
    parser.add_argument(
        "--examples", type=whole(0), default=EXAMPLES, metavar="N", help=f"show the first N examples ({EXAMPLES})"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with these examples, pictures and all problems")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all problems")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Report on the data; returns the exit code, 1 where anything cannot be used."""
    paths = args.paths
    if paths[0] == CHECK and (len(paths) > 1 or not Path(CHECK).exists()):
        paths = paths[1:]
    if not paths:
        parser.error("the following arguments are required: PATH")
    task = args.task or guess_task(paths[0])
    dataset = read_dataset(paths, task, args.image_root, args.split or ALL, store_cache(args, parser))
    if args.read_pictures:
        read_pictures(dataset, args.json)
    found = describe(dataset, args.examples)
    if args.html:
        write_page(args.html, found, dataset)
        print(f"blip: wrote {args.html}", file=sys.stderr)
    print(json_line(found) if args.json else in_lines(found), end="")
    return 1 if dataset.problems else 0


def describe(dataset: Dataset, count: int) -> dict[str, Any]:
    """What is in a data set, with its first `count` examples and all problems, as JSON has it."""
    target, word = get_task(dataset.task).target
    counts: Counter[str] = Counter()
    for example in dataset:
        counts["texts"] += len(example.texts)
        counts["words"] += sum(len(text.split()) for text in example.texts)
        counts["answers"] += len(example.answers)
        counts["without"] += getattr(example, target) in ((), None)
    _, starts = group(picture for example in dataset for picture in example.images)
    return {
        "task": dataset.task,
        "files": [{"name": name, "form": form} for name, form in dataset.forms.items()],
        "splits": dataset.splits,
        "examples": len(dataset),
        "pictures": len(starts) - 1,
        **{name: counts[name] for name in ("texts", "words", "answers")},
        "without": {word: counts["without"]},
        "first": [
            {
                "key": example.key,
                "pictures": [picture.name for picture in example.images],
                "texts": list(example.texts),
                "answers": dict(zip(example.answers, example.weights, strict=True)),
                "label": example.label,
            }
            for example in dataset[:count]
        ],
        "problems": [{"where": where, "error": reason} for where, reason in dataset.problems],
    }


def read_pictures(dataset: Dataset, as_json: bool) -> None:
    """Decode every picture once; those that are broken become problems."""
    order, starts = group(picture for example in dataset for picture in example.images)
    flat = [(at, side) for at, example in enumerate(dataset) for side in range(len(example.images))]
    chosen = (flat[first] for first in order[starts[:-1]].tolist())

    def pictures() -> Any:
        for at, side in chosen:
            example = dataset[at]
            yield example.key, example.images[side]

    def decode(found: tuple[str, Picture]) -> None:
        found[1].load()

    with Progress("data check", len(starts) - 1, events=as_json, problems=lambda: len(dataset.problems)) as bar:
        for batch in read_batches(pictures(), BATCH, decode, READERS):
            for (key, picture), error in batch:
                if isinstance(error, Exception):
                    message = in_one_line(error)
                    dataset.report(key, message if picture.name in message else f"{picture.name}: {message}")
            bar.step(len(batch))


def in_lines(found: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{file['name']}: {file['form']}" for file in found["files"][:SHOWN]]
    lines += [f"… and {len(found['files']) - SHOWN:,} more files"] if len(found["files"]) > SHOWN else []
    mean = f", {found['words'] / found['texts']:.1f} words each" if found["texts"] else ""
    lines.append(f"  task       {found['task']}")
    lines.append(f"  examples   {found['examples']:,} of {found['pictures']:,} pictures")
    lines.append(f"  texts      {found['texts']:,}{mean}")
    lines += [f"  answers    {found['answers']:,}"] if found["answers"] else []
    lines += [f"  without    {count:,} have no {word}" for word, count in found["without"].items() if count]
    splits = ", ".join(f"{name} {count:,}" for name, count in found["splits"].items())
    lines += [f"  splits     {splits}"] if splits else []
    for example in found["first"]:
        said = " | ".join(example["texts"])
        answers = ", ".join(f"{answer} {weight:.2g}" for answer, weight in example["answers"].items())
        label = "" if example["label"] is None else f" -> {bool(example['label'])}"
        lines.append(f"  {' + '.join(example['pictures'])}: {said}{f' -> {answers}' if answers else label}")
    problems = found["problems"]
    lines.append(f"  cannot be used: {len(problems):,}" if problems else "  everything can be used")
    lines += [f"    {one['where']}: {one['error']}" for one in problems[:SHOWN]]
    lines += [f"    … and {len(problems) - SHOWN:,} more; --json and --html list all"] if len(problems) > SHOWN else []
    return "".join(f"{printable(line)}\n" for line in lines)
