"""From what the user typed to pictures: files, folders, patterns, addresses, a list on standard input."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator

from blip_core.cli.lists import decode_list, read_input
from blip_core.processing.picture_files import is_picture_name
from blip_core.processing.picture_folders import files_inside, tell_passed

HINT = "; --recursive looks in the folders below too"
URLS = ("http://", "https://", "data:")
"""What the pictures that are no files begin with."""


def find_pictures(arguments: Iterable[str], recursive: bool) -> tuple[list[str], dict[str, str]]:
    """Turn files, folders, patterns, addresses and `-` (a list on standard input) into paths, each once, in order.

    The second result says of each argument that led to no picture, and of each folder that cannot be listed, why. A
    file that does not exist counts as found; reading it will fail. One warning counts what was passed over.
    """
    found: dict[str, str] = {}  # by absolute path, so that no picture comes twice
    problems: dict[str, str] = {}
    passed: Counter[str] = Counter()
    for argument in _listed(arguments):
        paths: list[str] = []
        for match in _matches(argument):
            inside = os.path.isdir(match)
            paths += files_inside(match, recursive, problems=problems, passed=passed) if inside else [match]
        if not paths and argument not in problems:
            hint = "" if recursive else "; --recursive looks in the folders below too"
            problems[argument] = (
                f"no pictures in this folder{hint}" if os.path.isdir(argument) else "no picture matches"
            )
        for path in paths:
            found.setdefault(absolute(path), path)
    tell_passed(passed)
    return list(found.values()), problems


def absolute(path: str) -> str:
    """The absolute path of a picture, by which it is known from run to run; an address stays as it is."""
    return path if path.startswith(URLS) else os.path.abspath(os.path.expanduser(path))


def _matches(argument: str) -> list[str]:
    """The paths that an argument stands for: itself, unless it is a pattern and there is no file of that name."""
    if argument.startswith(URLS):
        return [argument]
    argument = os.path.expanduser(argument)
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [argument]
    return sorted(m for m in glob.iglob(argument, recursive=True) if os.path.isdir(m) or is_picture_name(m))


def _listed(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            yield from decode_list(read_input(), "the list on standard input")
        else:
            yield argument
