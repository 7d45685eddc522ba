"""The frame of the commands that print results picture by picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from blip_core.cli.find_pictures import find_pictures
from blip_core.cli.report import Report

Row = tuple[dict[str, Any], list[str]]
"""A result of a picture: an entry for JSON and lines for people, both without the picture's name."""


def print_results(
    args: argparse.Namespace, images: list[str], work: Callable[[list[str]], Iterable[Exception | list[Row]]]
) -> int:
    """Find the pictures, let `work` yield for each what was found or what is wrong with it, and return the exit code.

    `work` is called only where there are pictures, so that no model is loaded for none.
    """
    report = Report(args.json)
    pictures, problems = find_pictures(images, args.recursive)
    with report.progress(len(pictures), "pictures"):
        for argument, problem in problems.items():
            report.problem(argument, problem)
        for path, found in zip(pictures, work(pictures) if pictures else (), strict=True):
            if isinstance(found, Exception):
                report.problem(path, found)
                continue
            for entry, lines in found:
                report.result({"image": path, **entry}, *(f"{path}: {line}" for line in lines))
            report.finished()
    return report.exit_code()
