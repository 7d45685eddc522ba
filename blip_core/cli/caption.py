"""`blip caption`: pictures -> what they show."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blip_core.cli.arguments import (
    add_frames_argument,
    add_length_arguments,
    add_model_arguments,
    add_result_arguments,
    add_scale_arguments,
    generation_options,
    on_ray,
    positive,
    probability,
    scale_argument,
    whole,
)
from blip_core.cli.caption_folder import Writer, fill_folder, tell
from blip_core.cli.find_pictures import find_pictures
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report
from blip_core.cli.targets import COLUMNS, OutputFile, Sidecars, Target
from blip_core.jobs.read_ahead import in_one_line
from blip_core.processing.picture_files import SUFFIXES


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE... [options]",
        "Say what pictures show, on the terminal or in files for training.",
        "blip caption photos/ --recursive",
        "blip caption photos/ --sidecar .txt --beams 3",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, 'patterns*.jpg', or - for a list on stdin"
    )
    add_result_arguments(parser, batch="pictures")
    add_frames_argument(parser)
    parser.add_argument("--scores", action="store_true", help="add how sure the model is")
    group = parser.add_argument_group("text")
    group.add_argument("--prompt", help="what captions begin with, unless given what the model was trained with")
    add_length_arguments(group)
    group.add_argument("--no-repeat-ngram", type=whole(1), metavar="N", help="say no N tokens twice in a caption")
    group.add_argument("--sample", action="store_true", help="draw captions by chance instead of taking the likeliest")
    group.add_argument(
        "--top-p", type=probability, metavar="P", help="with --sample: from the likeliest tokens of sum P"
    )
    group.add_argument("--temperature", type=positive, metavar="T", help="with --sample: below 1 plainer, above wilder")
    group.add_argument("--top-k", type=whole(1), metavar="K", help="with --sample: from the K likeliest tokens")
    group.add_argument("--seed", type=whole(0), metavar="N", help="with --sample: the same captions each time")
    group.add_argument("--num-captions", type=whole(1), metavar="N", help="N captions of each picture, best first")
    group.add_argument("--repetition-penalty", type=positive, metavar="X", help="above 1: repeat fewer tokens")
    group.add_argument("--length-penalty", type=float, metavar="X", help="with --beams: above 1 longer, below shorter")
    group.add_argument(
        "--bad-words", action="append", type=words, metavar="TEXT", help="never write this (can be given several times)"
    )
    group.add_argument(
        "--forced-words", action="append", type=words, metavar="TEXT", help="always write this (likewise; with beams)"
    )
    group = parser.add_argument_group(
        "files", "What is done already is skipped, so that a stopped run can be continued."
    )
    group.add_argument("--sidecar", metavar=".txt", help="write each caption beside its picture, with this suffix")
    group.add_argument(
        "--output", metavar="PATH", help="add all captions to a .jsonl or .csv file, or write shards into a folder"
    )
    group.add_argument(
        "--columns", type=columns, metavar="NAMES", help="what --output holds, such as image,caption or file_name,text"
    )
    group.add_argument("--prefix", default="", help="what to put before each caption")
    group.add_argument("--suffix", default="", help="what to put after each caption")
    group.add_argument("--overwrite", action="store_true", help="do again what is done already")
    add_model_arguments(parser)
    add_scale_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Caption pictures; returns the exit code."""
    options = checked_options(args, parser)
    report = Report(args.json, quiet=bool(args.sidecar or args.output))
    how = on_ray(args, parser)
    pictures, problems = find_pictures(args.images, args.recursive)
    if into_folder(args):
        for argument, problem in problems.items():
            report.problem(argument, problem)
        if pictures:
            fill_folder(pictures, args, options, how, report)
        return report.exit_code(summary=True)
    if args.sidecar:
        pictures = with_own_sidecars(pictures, args.sidecar, problems)
    with ExitStack() as opened:
        targets = [opened.enter_context(target) for target in find_targets(args, pictures)]
        todo = [path for path in pictures if not targets or not all(target.has(path) for target in targets)]
        report.skipped = len(pictures) - len(todo)
        place = args.output if todo else None
        with report.progress(len(pictures), "caption", place, done=report.skipped):
            for argument, problem in problems.items():
                report.problem(argument, problem)
            if todo:
                caption(todo, args, options, targets, report)
    return report.exit_code(summary=bool(targets))


def caption(
    todo: list[str], args: argparse.Namespace, options: dict[str, Any], targets: list[Target], report: Report
) -> None:
    """Caption the pictures of `todo` batch by batch."""
    for batch in Writer(args, options)(todo):
        good = [entry for entry in batch if "error" not in entry]
        failed: dict[str, OSError] = {}
        for target in targets:
            failed |= target.write([entry for entry in good if not target.has(entry["image"])])
        for entry in batch:
            error = failed.get(entry["image"])
            tell({"image": entry["image"], "error": in_one_line(error)} if error else entry, report)


def checked_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The keywords of `generate`; ends the command with exit code 2 where arguments contradict each other."""
    for name in ("top_p", "top_k", "temperature", "seed"):
        if getattr(args, name) is not None and not args.sample:
            parser.error(f"argument --{name.replace('_', '-')}: needs --sample")
    if args.forced_words and (args.sample or args.beams == 1):
        parser.error("argument --forced-words: needs --beams of 2 or more (3 unless given), and no --sample")
    if args.sidecar and (not re.fullmatch(r"\.\w+", args.sidecar) or args.sidecar.lower() in SUFFIXES):
        parser.error(f"argument --sidecar: must be a suffix such as .txt that no picture has, got {args.sidecar!r}")
    if args.output and not into_folder(args) and not args.output.lower().endswith((".jsonl", ".csv")):
        parser.error(
            f"argument --output: must end in .jsonl or .csv, or be a folder, whose name has no dot, got {args.output!r}"
        )
    if args.columns and not args.output:
        parser.error("argument --columns: needs --output")
    if into_folder(args):
        for name in ("sidecar", "overwrite", "columns"):
            if getattr(args, name):
                parser.error(f"argument --{name}: not where --output is a folder")
        if args.sample and args.seed is None:
            parser.error("argument --sample: needs --seed where --output is a folder, so that all draw alike")
    elif given := scale_argument(args):
        parser.error(f"argument {given}: needs --output FOLDER, which all that share the work write to")
    several = args.num_captions if (args.num_captions or 1) > 1 and not args.sample else None
    if args.forced_words:
        several = max(several or 1, args.beams or 3)
    return generation_options(
        parser,
        num_beams=max(args.beams or 1, several) if several else args.beams,
        num_return_sequences=args.num_captions or 1,
        repetition_penalty=args.repetition_penalty,
        length_penalty=args.length_penalty,
        top_k=args.top_k,
        no_repeat_ngram_size=args.no_repeat_ngram,
        min_new_tokens=args.min_tokens,
        max_new_tokens=args.max_tokens,
        do_sample=args.sample or None,
        top_p=args.top_p,
        temperature=args.temperature,
    )


def into_folder(args: argparse.Namespace) -> bool:
    """Say whether `--output` is a folder: its last part has no suffix."""
    return bool(args.output) and not os.path.splitext(args.output)[1]


def with_own_sidecars(pictures: list[str], suffix: str, problems: dict[str, str]) -> list[str]:
    """Leave out what is a sidecar itself, as `folder/*` matches, and the second of `a.jpg` and `a.png` as a problem."""
    owners: dict[Path, str] = {}
    for path in pictures:
        if not path.endswith(suffix):
            owner = owners.setdefault(Path(path).absolute().with_suffix(suffix), path)
            if owner != path:
                problems[path] = f"would share its {suffix} file with {owner}; rename one of them"
    return list(owners.values())


def find_targets(args: argparse.Namespace, pictures: list[str]) -> list[Target]:
    """The places that the arguments ask to write captions to."""
    targets: list[Target] = []
    if args.sidecar:
        targets.append(sidecars := Sidecars(args.sidecar, args.overwrite))
        sidecars.tell_empty(pictures)
    if args.output:
        targets.append(OutputFile(args.output, args.columns or usual_columns(args), args.overwrite))
    return targets


def usual_columns(args: argparse.Namespace) -> list[str]:
    """What an output file holds unless told: for a file `metadata`, what data sets of image folders want."""
    name, suffix = os.path.splitext(os.path.basename(args.output).lower())
    scores = ["confidence", "log_prob", *(["tokens", "token_log_probs"] if suffix == ".jsonl" else [])]
    return [*(["file_name", "text"] if name == "metadata" else ["image", "caption"]), *(scores if args.scores else [])]


def words(text: str) -> str:
    """Parse words that captions must or must not have."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must have a word")
    return text


def columns(text: str) -> list[str]:
    """Parse the names of columns; one of them must name the picture."""
    names = text.split(",")
    if unknown := [name for name in names if name not in COLUMNS]:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(COLUMNS)}, got {unknown[0]!r}")
    if not {"image", "file_name"} & set(names):
        raise argparse.ArgumentTypeError(f"must have image or file_name, got {text!r}")
    return names
