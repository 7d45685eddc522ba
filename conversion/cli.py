"""`blip inspect`: what a checkpoint holds. `blip convert`: a checkpoint in another format. `blip parity`: a proof."""

from __future__ import annotations

import argparse
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from blip_core.checkpoints.plan import DTYPES
from blip_core.cli.arguments import whole
from blip_core.cli.backend import quiet
from blip_core.cli.report import json_line
from blip_core.files import atomic_path
from conversion.converter import FORMATS, ConversionReport, convert
from conversion.inspection import CheckpointReport, inspect_checkpoint

SHOWN = 10
"""How many of the tensors left out are listed."""


def add_commands(commands: Any) -> None:
    """Add the commands of this package to the command line."""
    parser = commands.add_parser("inspect", help="say what a checkpoint holds", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, a weight file, or a Hub repository")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    _add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_inspect)
    _add_convert(commands)
    _add_parity(commands)


def _add_parity(commands: Any) -> None:
    parser = commands.add_parser(
        "parity",
        help="prove that both frameworks compute the same",
        description="Run a checkpoint in PyTorch and TensorFlow, or with --other two checkpoints in one framework, and "
        "compare every stage. The exit code is 0 where all agree, 1 where something differs.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, a weight file, or a Hub repository")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures to run (two drawn ones)")
    parser.add_argument("--text", action="append", metavar="TEXT", help="text to run, once or for each picture")
    parser.add_argument("--other", metavar="CHECKPOINT", help="compare with this checkpoint, in one framework")
    parser.add_argument("--framework", choices=["pt", "tf"], default="pt", help="framework for --other (pt)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights (float32)")
    _add_reading_arguments(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page with a plot as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_parity)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in another format",
        description="Write a checkpoint in another format, or a part of it. A destination that ends in .pth is that "
        "file; any other is a folder. What was written is read again and compared.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, a weight file, or a Hub repository")
    parser.add_argument("destination", metavar="DESTINATION", help="a new folder, or a file that ends in .pth")
    parser.add_argument("--to", choices=FORMATS, help="format of the weights (safetensors; pth for a file)")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    _add_reading_arguments(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (as they are)")
    parser.add_argument("--image-size", type=whole(1), metavar="PIXELS", help="resize the position embeddings")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="greatest size of one file, such as 2GB (5GB)")
    parser.add_argument("--tokenizer", metavar="PATH", help="folder or file of the vocabulary (the source's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace a destination that exists")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written and what is missing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_convert)


def run_inspect(args: argparse.Namespace) -> int:
    """Print what a checkpoint holds; returns 1 where it is not a whole model and nothing else."""
    report = inspect_checkpoint(args.checkpoint, config=args.config, head=args.head, revision=args.revision)
    print(json_line(report.to_dict()) if args.json else describe(report), end="")
    return 0 if report.complete else 1


def run_convert(args: argparse.Namespace) -> int:
    """Convert a checkpoint; returns 1 where a dry run finds that this cannot be done."""
    names = ("to", "config", "dtype", "head", "image_size", "max_shard_size", "tokenizer", "revision", "overwrite")
    options = {name: getattr(args, name) for name in names}
    report = convert(args.source, args.destination, **options, dry_run=args.dry_run)
    for warning in report.warnings:
        warnings.warn(warning, stacklevel=2)
    print(json_line(report.to_dict()) if args.json else describe_conversion(report, args.dry_run), end="")
    return 1 if report.problems else 0


def run_parity(args: argparse.Namespace) -> int:
    """Compare; returns 1 where something differs."""
    from conversion.parity import check_parity
    from conversion.parity_page import describe_parity, page

    if (args.other is None or args.framework == "tf") and find_spec("tensorflow"):
        with quiet():
            import_module("blip_tf")
    names = ("dtype", "other", "framework", "config", "head")
    options = {name: getattr(args, name) for name in names}
    report = check_parity(args.checkpoint, args.images or None, args.text, **options)
    if args.html:
        with atomic_path(args.html) as temporary:
            temporary.write_text(page(report), encoding="utf-8")
    print(json_line(report.to_dict()) if args.json else describe_parity(report), end="")
    return 0 if report.passed else 1


def describe_conversion(report: ConversionReport, dry_run: bool) -> str:
    """A report in lines for people."""
    size = f"{report.tensors} tensors, {report.bytes / 1e6:,.1f} MB, {report.dtype}"
    lines = [
        f"{report.source} ({report.source_format}) -> {report.destination} ({report.to})" + " (dry run)" * dry_run,
        _line("head", report.head),
        _line("would write" if dry_run else "written", size),
    ]
    left = report.left_out[:SHOWN] + [f"... and {len(report.left_out) - SHOWN} more"] * (len(report.left_out) > SHOWN)
    for kind, names in {"random": report.initialised, "left out": left, **report.problems}.items():
        lines += [_line(kind if index == 0 else "", name) for index, name in enumerate(names)]
    return "\n".join(lines) + "\n"


def describe(report: CheckpointReport) -> str:
    """A report in lines for people."""
    types = ", ".join(f"{name}" for name in report.dtypes)
    lines = [
        report.path,
        _line("format", f"{report.format}, {report.tensors} tensors, {report.bytes / 1e6:,.1f} MB, {types}"),
        _line("head", report.head or "none that is known"),
        *_sizes(report.config),
        _line("parameters", f"{report.total:,}"),
        *(_line("", f"{count:>13,}  {label}") for label, count in report.parameters.items()),
        *(_line("besides", f"{count:>13,}  {label}") for label, count in report.others.items()),
    ]
    for kind in ("missing", "unexpected", "misshapen", "duplicate"):
        names = getattr(report, kind)
        lines += [_line(kind if index == 0 else "", name) for index, name in enumerate(names)]
    if report.complete:
        lines.append(_line("missing", "nothing" if report.config else "unknown without config.json; pass --config"))
    return "\n".join(lines) + "\n"


def _sizes(config: dict[str, Any] | None) -> list[str]:
    if config is None:
        return []
    lines = []
    vision = config.get("vision_config", config if config["model_type"] == "blip_vision_model" else None)
    text = config.get("text_config", config if config["model_type"] == "blip_text_model" else None)
    for name, part in (("vision", vision), ("text", text)):
        if part is not None:
            each = (
                f"{part['num_hidden_layers']} layers, {part['hidden_size']} wide, {part['num_attention_heads']} heads"
            )
            end = f"{part['vocab_size']} words" if name == "text" else f"{part['image_size']} px pictures"
            lines.append(_line(name, f"{each}, {end}, LayerNorm eps {part['layer_norm_eps']:g}"))
    return lines


def _line(label: str, value: str) -> str:
    return f"  {label:<12}{value}"


def _add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="config.json, or settings that the checkpoint lacks")
    parser.add_argument(
        "--head", metavar="CLASS", help="such as BlipForConditionalGeneration (found in the checkpoint)"
    )
