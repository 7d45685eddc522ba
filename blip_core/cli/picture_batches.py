"""Finding pictures by what the user typed, and working on them in batches."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from blip_core.jobs.read_ahead import read_batches
from blip_core.processing.pictures import is_picture_name

Result = TypeVar("Result")


def find_pictures(arguments: Iterable[str], recursive: bool) -> tuple[list[str], dict[str, str]]:
    """Turn files, folders, patterns and `-` (a list on standard input) into paths, each picture once, in order.

    The second result says of each argument that led to no picture why. A file that does not exist counts as found;
    reading it will fail.
    """
    found: dict[str, str] = {}  # by absolute path, so that no picture comes twice
    problems: dict[str, str] = {}
    for argument in _listed(arguments):
        matches = [argument]
        if not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(m for m in glob.iglob(argument, recursive=True) if os.path.isdir(m) or is_picture_name(m))
        paths = [path for match in matches for path in (inside(match, recursive) if os.path.isdir(match) else [match])]
        if not paths and os.path.isdir(argument):
            hint = "" if recursive else "; --recursive looks in the folders below too"
            problems[argument] = f"no pictures in this folder{hint}"
        elif not paths:
            problems[argument] = "no picture matches"
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    return list(found.values()), problems


def _listed(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            data = sys.stdin.buffer.read()
            names = data.split(b"\0") if b"\0" in data else data.splitlines()  # `find -print0`, or one a line
            yield from (os.fsdecode(name) for name in names if name.strip())
        else:
            yield argument


def inside(folder: str, recursive: bool, wanted: Callable[[str], bool] = is_picture_name) -> Iterator[str]:
    """The files in a folder with a wanted name, pictures unless told otherwise, in the order of their names."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if wanted(name))


def run_batches(
    paths: Sequence[str],
    size: int,
    read: Callable[[str], np.ndarray],
    work: Callable[[list[np.ndarray]], Sequence[Result]],
) -> Iterator[list[tuple[str, Result | Exception]]]:
    """Read pictures ahead of `work`, which the model does on a batch at a time.

    Yields each batch when it is done: every picture with its result, or with what went wrong while it was read.
    """
    for batch in read_batches(paths, size, read):
        good = [picture for _, picture in batch if not isinstance(picture, Exception)]
        results = iter(work(good) if good else [])
        yield [(path, picture if isinstance(picture, Exception) else next(results)) for path, picture in batch]
