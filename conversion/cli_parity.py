"""`blip parity`: a proof that two engines, or two checkpoints, compute the same."""

from __future__ import annotations

import argparse

from blip_core.checkpoints.plan import DTYPES
from blip_core.cli.arguments import add_checkpoint_arguments, add_engine_option
from blip_core.cli.load_model import import_quietly
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import json_line
from blip_core.engines import ENGINES, get_engine
from blip_core.files import atomic_path
from conversion.parity import check_parity
from conversion.parity_page import describe_parity, page


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "CHECKPOINT [IMAGE...] [options]",
        "Run a checkpoint in PyTorch and TensorFlow or other engines, or with --other two checkpoints in one engine or "
        "a model and its export, and compare every stage. The exit code is 0 where all agree, 1 where not.",
        "blip parity captioner/ photo.jpg --html parity.html",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, a weight file, or a Hub repository")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures to run (two drawn ones)")
    parser.add_argument("--text", action="append", metavar="TEXT", help="text to run, once or for each picture")
    parser.add_argument("--other", metavar="CHECKPOINT", help="compare with this checkpoint, in one engine")
    add_engine_option(parser, "for --other alone")
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), metavar="NAMES",
        help="compare the first of these with each of the others, such as pt,tf,onnx,openvino (pt,tf)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights (float32)")
    add_checkpoint_arguments(parser, revision=False)
    parser.add_argument("--html", metavar="FILE", help="write a page with a plot as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Compare; returns 1 where something differs."""
    engines = args.engines or ([args.engine or get_engine().name] if args.other else list(ENGINES)[:2])
    for name in engines:
        import_quietly(get_engine(name))
    options = {name: getattr(args, name) for name in ("dtype", "other", "config", "head")}
    report = check_parity(args.checkpoint, args.images or None, args.text, engines=engines, **options)
    if args.html:
        with atomic_path(args.html) as temporary:
            temporary.write_text(page(report), encoding="utf-8")
    print(json_line(report.to_dict()) if args.json else describe_parity(report), end="")
    return 0 if report.passed else 1
