"""`blip classify`: pictures -> which of some labels they show."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from blip_core.cli.arguments import add_model_arguments, add_result_arguments, whole
from blip_core.cli.lists import read_list
from blip_core.cli.load_model import load
from blip_core.cli.parser import CommandParser
from blip_core.cli.picture_results import Row, print_results
from blip_core.inference import Classifier
from blip_core.inference.labels import TEMPLATE, label_texts


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE... --labels FILE [options]",
        "Say which of some labels pictures show, with the probability of each label among all of them.",
        'blip classify photos/ --labels animals.txt --template "a photo of a {}"',
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, 'patterns*.jpg', or - for a list on stdin"
    )
    parser.add_argument("--labels", required=True, metavar="FILE", help="one label per line (- for standard input)")
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help=f'what a label is put into, such as "a photo of a {{}}"; several are averaged ("{TEMPLATE}")',
    )
    parser.add_argument("--top", type=whole(1), default=5, metavar="K", help="the K best labels of each picture (5)")
    parser.add_argument("--itm", action="store_true", help="order these K by the matching head; better, but slower")
    add_result_arguments(parser, batch="pictures (and labels)")
    add_model_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Classify pictures; returns the exit code."""
    if args.labels == "-" and "-" in args.images:
        parser.error("argument --labels: standard input cannot be the pictures' list, too")
    templates = args.template or [TEMPLATE]
    try:
        label_texts(["a"], templates)
    except ValueError as error:
        parser.error(f"argument --template: {error}")
    labels = read_list("--labels", args.labels)

    def work(pictures: list[str]) -> Iterator[Exception | list[Row]]:
        options = {"top": args.top, "itm": args.itm, "batch_size": args.batch_size}
        for classes in load(Classifier, args)(pictures, labels, templates, **options):
            if classes.error:
                yield classes.error
                continue
            rows = classes.rows()
            yield [({"label": classes.label, "labels": rows}, [as_line(row) for row in rows])]

    return print_results(args, args.images, work)


def as_line(row: dict[str, Any]) -> str:
    """A label with its probabilities, for people."""
    itm = f"itm {row['itm']:.3f}, " if "itm" in row else ""
    return f"{row['label']} ({itm}{row['probability']:.3f})"
