"""`blip caption`: pictures -> what they show."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.cli.arguments import (
    add_length_arguments,
    add_model_arguments,
    add_result_arguments,
    generation_options,
    positive,
    probability,
    whole,
)
from blip_core.cli.backend import Backend
from blip_core.cli.pictures import find_pictures
from blip_core.cli.report import Report
from blip_core.cli.targets import OutputFile, Sidecars, Target
from blip_core.images import SUFFIXES
from blip_core.reading import read_batches


def add_command(commands: Any) -> None:
    """Add `caption` to the command line."""
    parser = commands.add_parser("caption", help="say what pictures show", description=__doc__)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, 'patterns*.jpg', or - for a list on stdin"
    )
    add_result_arguments(parser, batch="pictures")
    parser.add_argument("--scores", action="store_true", help="add how sure the model is")
    group = parser.add_argument_group("text")
    group.add_argument("--prompt", help='what captions begin with, such as "a picture of"')
    add_length_arguments(group)
    group.add_argument("--no-repeat-ngram", type=whole(1), metavar="N", help="say no N tokens twice in a caption")
    group.add_argument("--sample", action="store_true", help="draw captions by chance instead of taking the likeliest")
    group.add_argument(
        "--top-p", type=probability, metavar="P", help="with --sample: from the likeliest tokens of sum P"
    )
    group.add_argument("--temperature", type=positive, metavar="T", help="with --sample: below 1 plainer, above wilder")
    group.add_argument("--seed", type=whole(0), metavar="N", help="with --sample: the same captions each time")
    group = parser.add_argument_group(
        "files", "What is done already is skipped, so that a stopped run can be gone on with."
    )
    group.add_argument("--sidecar", metavar=".txt", help="write each caption beside its picture, with this suffix")
    group.add_argument("--output", metavar="FILE", help="add all captions to a .jsonl or .csv file")
    group.add_argument("--prefix", default="", help="what to put before each caption")
    group.add_argument("--suffix", default="", help="what to put after each caption")
    group.add_argument("--overwrite", action="store_true", help="do again what is done already")
    add_model_arguments(parser)
    parser.set_defaults(run=lambda args: run(args, parser))


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Caption pictures; returns the exit code."""
    options = checked_options(args, parser)
    report = Report(args.json, quiet=bool(args.sidecar or args.output))
    pictures, problems = find_pictures(args.images, args.recursive)
    targets = open_targets(args)
    if args.sidecar:
        pictures = with_own_sidecars(pictures, args.sidecar, problems)
    todo = [path for path in pictures if not targets or not all(target.has(path) for target in targets)]
    report.skipped = len(pictures) - len(todo)
    with report.progress(len(todo)):
        for argument, problem in problems.items():
            report.problem(argument, problem)
        if todo:
            caption(todo, args, options, targets, report)
    return report.exit_code(summary=bool(targets))


def caption(
    todo: list[str], args: argparse.Namespace, options: dict[str, Any], targets: list[Target], report: Report
) -> None:
    """Caption the pictures of `todo` batch by batch."""
    backend = Backend("BlipForConditionalGeneration", args)
    for batch in read_batches(todo, args.batch_size, backend.read_picture):
        good = {path: picture for path, picture in batch if not isinstance(picture, Exception)}
        for path, picture in batch:
            if isinstance(picture, Exception):
                report.problem(path, picture)
        if not good:
            continue
        prompts = backend.tokens([args.prompt] * len(good)) if args.prompt else {}
        output = backend.model.generate(
            pixel_values=backend.tensor(np.stack(list(good.values()))), **prompts, **options, seed=args.seed
        )
        entries = []
        for path, (text, scores) in zip(good, backend.texts(output), strict=True):
            entry = {"image": path, "caption": args.prefix + text + args.suffix}
            entries.append(entry | scores if args.scores else entry)
        for target in targets:
            target.write([entry for entry in entries if not target.has(entry["image"])])
        for entry in entries:
            confidence = f" ({entry['confidence']:.3f})" if args.scores else ""
            report.result(entry, f"{entry['image']}: {entry['caption']}{confidence}")
            report.finished()


def checked_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The keywords of `generate`; ends the command with exit code 2 where arguments contradict each other."""
    for name in ("top_p", "temperature", "seed"):
        if getattr(args, name) is not None and not args.sample:
            parser.error(f"argument --{name.replace('_', '-')}: needs --sample")
    if args.sidecar and (not re.fullmatch(r"\.\w+", args.sidecar) or args.sidecar.lower() in SUFFIXES):
        parser.error(f"argument --sidecar: must be a suffix such as .txt that no picture has, got {args.sidecar!r}")
    if args.output and not args.output.lower().endswith((".jsonl", ".csv")):
        parser.error(f"argument --output: must end in .jsonl or .csv, got {args.output!r}")
    return generation_options(
        parser,
        num_beams=args.beams,
        no_repeat_ngram_size=args.no_repeat_ngram,
        min_new_tokens=args.min_tokens,
        max_new_tokens=args.max_tokens,
        do_sample=args.sample or None,
        top_p=args.top_p,
        temperature=args.temperature,
    )


def with_own_sidecars(pictures: list[str], suffix: str, problems: dict[str, str]) -> list[str]:
    """Leave out what is a sidecar itself, as `folder/*` matches, and the second of `a.jpg` and `a.png` as a problem."""
    owners: dict[Path, str] = {}
    for path in pictures:
        if not path.endswith(suffix):
            owner = owners.setdefault(Path(path).absolute().with_suffix(suffix), path)
            if owner != path:
                problems[path] = f"would share its {suffix} file with {owner}; rename one of them"
    return list(owners.values())


def open_targets(args: argparse.Namespace) -> list[Target]:
    """The places that the arguments ask to write captions to."""
    targets: list[Target] = []
    if args.sidecar:
        targets.append(Sidecars(args.sidecar, args.overwrite))
    if args.output:
        scores = ["confidence", "log_prob"] if args.scores else []
        targets.append(OutputFile(args.output, ["image", "caption", *scores], args.overwrite))
    return targets
