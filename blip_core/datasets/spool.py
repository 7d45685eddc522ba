"""A disk-backed list of JSON values, and grouping of very many keys."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

BUFFER = 2**16  # bytes


class Spool(Sequence[Any]):
    """A list of JSON values in an anonymous temporary file, with 8 bytes of memory for each.

    Tuples come back as lists. Append everything before reading; then threads and forked processes may read. Raises
    `OSError` where the file cannot be written.
    """

    def __init__(self) -> None:
        self._ends = array("Q", [0])
        self._waiting = bytearray()  # not written yet
        self._lock = threading.Lock()
        with _room():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # as long as the object
        weakref.finalize(self, self._file.close)

    def append(self, value: Any) -> None:
        """Add a value."""
        data = json.dumps(value).encode()
        self._waiting += data
        self._ends.append(self._ends[-1] + len(data))
        if len(self._waiting) >= BUFFER:
            self.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        if isinstance(number, range):
            return [self[one] for one in number]
        if self._waiting:
            self.flush()
        return json.loads(self._read(self._ends[number], self._ends[number + 1] - self._ends[number]))

    def flush(self) -> None:
        """Write buffered values to the file; reading does so, too."""
        with self._lock, _room():
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]

    def _read(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, start)
        with self._lock:  # Windows, where nothing forks
            self._file.seek(start)
            return self._file.read(size)


@contextmanager
def _room() -> Iterator[None]:
    """Turn an error of writing into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The list of examples cannot be written to a temporary file: {error.strerror or error}. Make room, or set "
            "the variable TMPDIR to a folder on another disk."
        ) from error


def group(keys: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Group equal keys, in the order in which each first appears; takes 40 bytes of memory for each key.

    Returns `order`, indices of keys, and `starts`: group g has the keys `order[starts[g] : starts[g + 1]]`, ascending.
    Keys are equal where their `repr` is.
    """
    digests = bytearray()
    for key in keys:
        digests += hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    order = np.lexsort(halves.T)
    halves = halves[order]
    new = np.ones(len(order), bool)
    new[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    firsts = np.empty_like(order)  # for each key the index of the first that equals it
    firsts[order] = order[new][np.cumsum(new) - 1]
    order = np.argsort(firsts, kind="stable")
    return order, np.append(np.flatnonzero(np.diff(firsts[order], prepend=-1)), len(order))
