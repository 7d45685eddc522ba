"""Writing a destination so that it appears in one step: checked, written beside it, synced, and then renamed."""

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

from blip_core.checkpoints.processor_files import FILES
from blip_core.files import FULL_DISK, temporary_name, to_disk

SUFFIXES = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".h5", ".pth"),
    *(".onnx", ".xml", ".pt2", ".tflite", ".pb", "export.json"),
)  # fmt: skip
"""The ends of the names of files of weights and graphs."""
FOLDERS = ("assets", "variables")
"""Those that a SavedModel has."""
BESIDE = (*FILES, "README.md", ".gitattributes")
"""What else a checkpoint's folder may hold and still be replaced."""
PAUSE = 0.02
"""Seconds between two syncs while a destination is being written."""


def check_destination(destination: Path, source: Path, *, folder: bool, overwrite: bool) -> None:
    """Refuse a destination that must not be written, before any work.

    Raises `FileExistsError` if it exists, unless `overwrite`; `ValueError` for the source itself, or a folder that
    holds more than a checkpoint, which would be lost.
    """
    if not destination.exists():
        return
    if destination.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise ValueError(f"{destination} is {kinds[1]}, but {kinds[0]} is to be written; give another destination.")
    if destination.resolve() in (source.resolve(), source.resolve().parent):
        raise ValueError(f"{destination} is where the checkpoint is read from; give another destination.")
    if destination.is_dir():
        strange = [path.name for path in destination.iterdir() if not _is_part(path)]
        if strange:
            raise ValueError(
                f"{destination} holds {sorted(strange)[0]}, which is no part of a checkpoint; "
                "give a folder that is new, or only a checkpoint."
            )
        if not overwrite and any(destination.iterdir()):
            raise FileExistsError(f"{destination} exists; pass --overwrite (overwrite=True) to replace it.")
    elif not overwrite:
        raise FileExistsError(f"{destination} exists; pass --overwrite (overwrite=True) to replace it.")


def _is_part(path: Path) -> bool:
    if path.is_dir():
        return path.name in FOLDERS and path.with_name("saved_model.pb").is_file()
    return path.is_file() and (path.name in BESIDE or path.name.endswith(SUFFIXES))


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """Give a path beside `destination` to write a file or folder to; on success it replaces `destination` in one step.

    An older destination is whole until then. On failure everything that was written is removed.
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
def synced(path: Path) -> Iterator[None]:
    """Sync a file or folder to the disk, from the beginning on while it is being written.

    Raises `OSError` if the disk fails.
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


@contextmanager
def full_disk_named(destination: Path, size: int) -> Iterator[None]:
    """Say in one sentence that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK or "No space left" in str(error):
            raise OSError(
                f"{destination} could not be written: the disk is full or too small for {size:,} bytes. "
                "Nothing was left."
            ) from error
        raise


def _exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders in one step, or in three if the system has no such call."""
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
