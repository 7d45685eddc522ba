"""Room for what there is of each of very many examples: a temporary file, and numbers of those of the same key."""

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
from typing import Any, overload

import numpy as np

BUFFER = 2**16  # bytes that are written at once


class Spool(Sequence[Any]):
    """Values that JSON can hold, in a temporary file without a name; memory has 8 bytes for each.

    Tuples come back as lists. What is read once is not added to; threads and forked processes may read. Raises
    `OSError` where the file cannot be written.
    """

    def __init__(self) -> None:
        self._ends = array("Q", [0])
        self._waiting = bytearray()  # to be written
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

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        number = range(len(self))[index]
        if isinstance(number, range):
            return [self[one] for one in number]
        if self._waiting:
            self.flush()
        return json.loads(self._read(self._ends[number], self._ends[number + 1] - self._ends[number]))

    def flush(self) -> None:
        """Write what is not written yet, as reading does, too."""
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
    """Say of what cannot be written what it is and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The listing of the input cannot be written to a temporary file: {error.strerror or error}. Make room, or "
            "name a folder that has some in the variable TMPDIR."
        ) from error


def group(keys: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Put the same keys together, in the order of the first of each; 40 bytes of memory for each while it lasts.

    Returns `order`, numbers of keys, and `starts`, of groups in it with its end as the last: group g is
    `order[starts[g] : starts[g + 1]]`, rising. Keys are the same where their `repr` is.
    """
    digests = bytearray()
    for key in keys:
        digests += hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    order = np.lexsort(halves.T)
    halves = halves[order]
    new = np.ones(len(order), bool)
    new[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    firsts = np.empty_like(order)  # for each number the first of the same
    firsts[order] = order[new][np.cumsum(new) - 1]
    order = np.argsort(firsts, kind="stable")
    return order, np.append(np.flatnonzero(np.diff(firsts[order], prepend=-1)), len(order))
