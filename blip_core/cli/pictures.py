"""Finding pictures by what the user typed, and reading them ahead of the model."""

from __future__ import annotations

import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from blip_core.images import SUFFIXES

READERS = 4
"""Threads that decode and resize: what a picture takes to read differs, and Pillow runs without Python's lock."""


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
            matches = sorted(m for m in glob.iglob(argument, recursive=True) if os.path.isdir(m) or _named_so(m))
        paths = [path for match in matches for path in (_inside(match, recursive) if os.path.isdir(match) else [match])]
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


def _inside(folder: str, recursive: bool) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if _named_so(name))


def _named_so(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not os.path.basename(path).startswith(".")


def read_batches(
    paths: Sequence[str], size: int, read: Callable[[str], np.ndarray]
) -> Iterator[list[tuple[str, np.ndarray | Exception]]]:
    """Read pictures in batches of `size`, each with what `read` returned or raised.

    While the model works on one batch, threads read the next; no more than two batches are in memory.
    """
    pool = ThreadPoolExecutor(READERS)
    ahead: deque[list[tuple[str, Future[np.ndarray | Exception]]]] = deque()
    try:
        for start in range(0, len(paths), size):
            ahead.append([(path, pool.submit(_attempt, read, path)) for path in paths[start : start + size]])
            if len(ahead) == 2:
                yield [(path, future.result()) for path, future in ahead.popleft()]
        while ahead:
            yield [(path, future.result()) for path, future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(read: Callable[[str], np.ndarray], path: str) -> np.ndarray | Exception:
    try:
        return read(path)
    except Exception as error:  # whatever is wrong with one picture, the others are to be done
        return error
