"""Making a destination appear in one step: written elsewhere first, then put in its place."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from blip_core.files import temporary_name, to_disk

PARTS = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.h5", "*.pth", "config.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "vocab.txt",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "README.md", ".gitattributes",
)  # fmt: skip
"""Files of a checkpoint folder."""
PAUSE = 0.02
"""Seconds between two looks at what there is to bring to the disk."""


def check_destination(destination: Path, source: Path, *, folder: bool, overwrite: bool) -> None:
    """Refuse a destination that must not be written, before any work.

    Raises `FileExistsError` for one that is there already, unless `overwrite`; `ValueError` for the source itself, or
    a folder that holds more than a checkpoint, which would be lost.
    """
    if not destination.exists():
        return
    if destination.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise ValueError(f"{destination} is {kinds[1]}, but {kinds[0]} is to be written; give another destination.")
    if destination.resolve() in (source.resolve(), source.resolve().parent):
        raise ValueError(f"{destination} is where the checkpoint is read from; give another destination.")
    if destination.is_dir():
        strange = [p.name for p in destination.iterdir() if not p.is_file() or not any(p.match(part) for part in PARTS)]
        if strange:
            raise ValueError(
                f"{destination} holds {sorted(strange)[0]}, which is no part of a checkpoint; "
                "give a folder that is new, or only a checkpoint."
            )
        if not overwrite and any(destination.iterdir()):
            raise FileExistsError(f"{destination} exists; pass --overwrite (overwrite=True) to replace it.")
    elif not overwrite:
        raise FileExistsError(f"{destination} exists; pass --overwrite (overwrite=True) to replace it.")


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """Give a path beside `destination` to write a file or folder to; on success it takes its place in one step.

    An older destination is whole until then, and gone after. On failure nothing is left of what was written.
    A symbolic link as destination stays; what it points to is written.
    """
    destination = Path(os.path.realpath(destination))
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(destination)
    try:
        yield temporary
        if temporary.is_file() or not destination.exists() or not any(destination.iterdir()):
            os.replace(temporary, destination)
        else:
            _exchange(temporary, destination)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def reaching_the_disk(path: Path) -> Iterator[None]:
    """Have a file or folder on the disk when this ends; the disk takes what is written from the beginning on.

    Raises `OSError` where the disk fails.
    """
    done = threading.Event()

    def meanwhile() -> None:
        while not done.wait(PAUSE):
            with suppress(FileNotFoundError):  # not there yet, or renamed
                to_disk(path)

    with ThreadPoolExecutor(1) as disk:
        syncing = disk.submit(meanwhile)
        try:
            yield
        finally:
            done.set()
        syncing.result()
        to_disk(path)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change their names in one step, or in three where the system has no such call."""
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if rename and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
            return
    aside = one.with_suffix(".old")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)
