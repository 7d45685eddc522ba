"""Read ahead: threads read the next batch while the model works on this one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from blip_core.files import FULL_DISK

Item = TypeVar("Item")
Read = TypeVar("Read")

READERS = 4
"""Threads that decode and resize; Pillow releases the GIL."""


def read_batches(
    items: Iterable[Item], size: int, read: Callable[[Item], Read], readers: int = READERS
) -> Iterator[list[tuple[Item, Read | Exception]]]:
    """Yield items in batches of `size`, each with what `read` returned or raised for it.

    Threads read the next batch meanwhile; at most two batches are in memory.
    """
    pool = ThreadPoolExecutor(readers)
    ahead: deque[list[tuple[Item, Future[Read | Exception]]]] = deque()
    try:
        rest = iter(items)
        while some := list(islice(rest, size)):
            ahead.append([(item, pool.submit(_attempt, read, item)) for item in some])
            if len(ahead) == 2:
                yield [(item, future.result()) for item, future in ahead.popleft()]
        while ahead:
            yield [(item, future.result()) for item, future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(read: Callable[[Item], Read], item: Item) -> Read | Exception:
    try:
        return read(item)
    except Exception as error:  # one broken picture must not stop the others
        return error


def in_one_line(error: Exception | str) -> str:
    """Return an error as one line; the system's errors begin with the file's name instead of a number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        remedy = "; make room and run the same command again" if error.errno in FULL_DISK else ""
        error = f"{os.fsdecode(error.filename)}: {error.strerror[:1].lower()}{error.strerror[1:]}{remedy}"
    return " ".join(str(error).split()) or type(error).__name__
