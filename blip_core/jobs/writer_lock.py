"""A lock on an output, for one writer at a time; it ends with the process that holds it, even a killed one."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".*.lock"
"""Pattern of lock files. A file left by a killed process is no longer locked; the next process takes it."""

PLACE = 2**30
"""The byte that is locked on Windows: far beyond the content, as locked bytes cannot be read there."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems without locks."""


class BusyError(OSError):
    """Another process is writing the same output."""


@contextmanager
def one_writer(path: str | Path) -> Iterator[None]:
    """Hold the lock of an output, the file `.NAME.lock` beside it, while the block runs.

    For an output folder of several files, name the one that represents the whole run. Threads of one process exclude
    each other, too. On a file system without locks the block runs after a warning.

    Raises `BusyError`, naming the process and machine that hold the lock.
    """
    path = Path(os.path.realpath(path))  # links to one file share one lock
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = os.fsencode(path.name)[:200].decode("utf-8", "ignore")
    lock = path.with_name(f".{begin}.lock")
    handle = _acquire(lock, path)
    if handle is None:
        warnings.warn(f"{path} cannot be locked on this file system; let one process alone write it.", stacklevel=3)
        yield
        return
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(holder).encode())
        yield
    finally:
        if sys.platform == "win32":  # open files cannot be removed there
            os.close(handle)
        with suppress(OSError):
            lock.unlink()
        if sys.platform != "win32":
            os.close(handle)


def _acquire(lock: Path, path: Path) -> int | None:
    """Open and lock the file, again if its last holder has just removed it; None without locks."""
    while True:
        try:
            handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        except PermissionError:
            return None
        try:
            _lock(handle)
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in NO_LOCKS:
                return None
            raise BusyError(f"{path} is being written by {holder}; wait until that ends, or name another.") from None
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 1000, 0) if hasattr(os, "pread") else os.read(handle, 1000))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
