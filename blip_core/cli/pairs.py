"""What `answer` and `match` share: a picture is encoded once, then all its texts are dealt with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from blip_core.cli.arguments import add_model_arguments, add_result_arguments, words
from blip_core.cli.backend import Backend
from blip_core.cli.find_pictures import find_pictures
from blip_core.cli.report import Report
from blip_core.jobs.read_ahead import read_batches

Work = Callable[[Any], Iterator[tuple[dict[str, Any], str]]]
"""From the image embeddings (1, tokens, width) of a picture to its results, each as an entry for JSON and as lines."""


def add_pair_arguments(parser: argparse.ArgumentParser, texts: str) -> None:
    """Add the picture, the texts, under the name `texts`, and what all commands have."""
    parser.add_argument("image", metavar="IMAGE", help="a file, a folder, a 'pattern*.jpg', or - for a list on stdin")
    parser.add_argument(
        "texts", nargs="+", metavar=texts, type=words, help=f"one {texts.lower()} or more, each in quotes"
    )
    add_result_arguments(parser, batch=f"{texts.lower()}s")
    add_model_arguments(parser)


def run_pairs(args: argparse.Namespace, head: str, prepare: Callable[[Backend, list[Any]], Work]) -> int:
    """Work through all pictures with all texts, and return the exit code.

    `prepare` gets the model and the tokenized texts, in batches of (texts, tensors), and returns what is done with a
    picture.
    """
    report = Report(args.json)
    pictures, problems = find_pictures([args.image], args.recursive)
    with report.progress(len(pictures)):
        for argument, problem in problems.items():
            report.problem(argument, problem)
        if not pictures:
            return report.exit_code()
        backend = Backend(head, args)
        parts = [args.texts[i : i + args.batch_size] for i in range(0, len(args.texts), args.batch_size)]
        work = prepare(backend, [(part, backend.tokens(part)) for part in parts])
        for batch in read_batches(pictures, args.batch_size, backend.read_picture):
            for path, picture in batch:
                if isinstance(picture, Exception):
                    report.problem(path, picture)
                    continue
                for entry, lines in work(backend.embeds(picture)):
                    report.result({"image": path, **entry}, *(f"{path}: {line}" for line in lines.split("\n")))
                report.finished()
    return report.exit_code()
