"""List the pictures in folders; what is skipped and folders that cannot be listed are reported."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

from blip_core.processing.picture_files import is_picture_name

NOT_READ = (".arw", ".cr2", ".cr3", ".dng", ".eps", ".nef", ".pdf", ".psd", ".svg")
"""Suffixes of pictures that cannot be read; a warning counts these, but not other files."""


def files_inside(
    folder: str,
    recursive: bool,
    wanted: Callable[[str], bool] = is_picture_name,
    *,
    problems: dict[str, str],
    passed: Counter[str],
) -> Iterator[str]:
    """Yield the files in a folder that are `wanted` by name (default: pictures), in the order of their names.

    `problems` gets the folders that cannot be listed, `passed` counts what is skipped, by kind.
    """

    def fail(error: OSError) -> None:
        problems[str(error.filename)] = f"this folder cannot be listed: {error.strerror}"

    for parent, folders, files in os.walk(folder, onerror=fail):
        below = sorted(name for name in folders if recursive and not name.startswith("."))
        folders[:] = [name for name in below if not os.path.islink(os.path.join(parent, name))]
        passed["link to a folder"] += len(below) - len(folders)
        for name in sorted(files):
            path = os.path.join(parent, name)
            if wanted(name):
                yield path
            elif name.lower().endswith(NOT_READ):
                passed[f"{os.path.splitext(name)[1].lower()} file"] += 1


def tell_passed(passed: Counter[str]) -> None:
    """Warn about what was skipped, if anything."""
    counts = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(passed.items()) if count]
    if counts:
        warnings.warn(f"passed over: {', '.join(counts)}; name a linked folder itself, convert files.", stacklevel=2)
