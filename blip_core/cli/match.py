"""`blip match`: pictures and texts -> how well they go together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from blip_core.cli.arguments import add_pair_arguments
from blip_core.cli.load_model import load
from blip_core.cli.parser import CommandParser
from blip_core.cli.picture_results import Row, print_results
from blip_core.inference import Matcher


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE TEXT... [options]",
        "Say how well texts describe a picture, or each picture of a folder: itm is the probability that they match, "
        "itc the cosine similarity of their features.",
        'blip match photo.jpg "a dog on a beach" "a city at night"',
    )
    add_pair_arguments(parser, "TEXT")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Match pictures with texts; returns the exit code."""

    def work(pictures: list[str]) -> Iterator[Exception | list[Row]]:
        for match in load(Matcher, args)(pictures, args.texts, batch_size=args.batch_size):
            yield match.error or [
                (row, [f"{row['text']} (itm {row['itm']:.3f}, itc {row['itc']:.3f})"]) for row in match.rows()
            ]

    return print_results(args, [args.image], work)
