"""The file of the weights of all graphs of an export that are not those of a checkpoint: each is stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARED = "weights.bin"
ALIGNMENT = 64
"""Bytes: where a tensor begins is a multiple of it, so that runtimes can use it where it lies."""
Place = Callable[[Any], int]
"""Stores contiguous bytes, unless the same ones are stored already; returns where they begin."""


@contextmanager
def shared_weights(folder: Path) -> Iterator[Place]:
    """Write tensors behind each other into `weights.bin` of a folder."""
    places: dict[bytes, int] = {}
    with open(folder / SHARED, "wb") as file:

        def place(data: Any) -> int:
            digest = hashlib.sha256(data).digest()
            if digest not in places:
                file.write(bytes(-file.tell() % ALIGNMENT))
                places[digest] = file.tell()
                file.write(data)
            return places[digest]

        yield place
