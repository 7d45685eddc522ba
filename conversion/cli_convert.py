"""`blip convert`: a checkpoint in another format."""

from __future__ import annotations

import argparse
import warnings

from blip_core.checkpoints.plan import DTYPES
from blip_core.cli.arguments import add_checkpoint_arguments, whole
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import json_line
from conversion.cli_inspect import line
from conversion.converter import ConversionReport, convert, precisions, writable

SHOWN = 10
"""How many of the tensors left out are listed."""
OPTIONS = (
    *("to", "config", "dtype", "head", "image_size", "max_shard_size", "tokenizer", "revision", "overwrite"),
    *("dry_run", "free_size", "weights", "max_new_tokens", "base_model"),
)
"""The arguments that are keywords of `convert`."""


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "SOURCE DESTINATION [options]",
        "Write a checkpoint in another format, or a part of it. A destination that ends in .pth is that file; any "
        "other is a folder. What was written is read again and compared.",
        "blip convert model_base_caption.pth captioner/",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, a weight file, or a Hub repository")
    parser.add_argument("destination", metavar="DESTINATION", help="a new folder, or a file that ends in .pth")
    formats = writable()
    said = f"format of the weights: {', '.join(formats)} (safetensors; pth for a file)"
    parser.add_argument("--to", choices=formats, metavar="FORMAT", help=said)
    add_checkpoint_arguments(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (as they are)")
    parser.add_argument("--image-size", type=whole(1), metavar="PIXELS", help="resize the position embeddings")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="greatest size of one file, such as 2GB (5GB)")
    parser.add_argument("--tokenizer", metavar="PATH", help="folder or file of the vocabulary (the source's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace a destination that exists")
    parser.add_argument("--free-size", action="store_true", help="let an export take pictures of any size")
    parser.add_argument("--weights", choices=precisions(), help="round the weights of an export to this precision")
    parser.add_argument(
        "--max-new-tokens", type=whole(1), metavar="N", help="most tokens of an export with a whole search (20)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written and what is missing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Convert a checkpoint; returns 1 where a dry run finds that this cannot be done."""
    report = convert(args.source, args.destination, **{name: getattr(args, name) for name in OPTIONS})
    for warning in report.warnings:
        warnings.warn(warning, stacklevel=2)
    print(json_line(report.to_dict()) if args.json else describe_conversion(report, args.dry_run), end="")
    return 1 if report.problems else 0


def describe_conversion(report: ConversionReport, dry_run: bool) -> str:
    """A report in lines for people."""
    size = f"{report.tensors} tensors, {report.bytes / 1e6:,.1f} MB, {report.dtype}"
    lines = [
        f"{report.source} ({report.source_format}) -> {report.destination} ({report.to})" + " (dry run)" * dry_run,
        line("head", report.head),
        line("would write" if dry_run else "written", size),
    ]
    left = report.left_out[:SHOWN] + [f"... and {len(report.left_out) - SHOWN} more"] * (len(report.left_out) > SHOWN)
    for kind, names in {"random": report.initialised, "left out": left, **report.problems}.items():
        lines += [line(kind if index == 0 else "", name) for index, name in enumerate(names)]
    return "\n".join(lines) + "\n"
