"""Writing tensors into a file: one at a time, in pieces, two at once."""

from __future__ import annotations

import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.files import FULL_DISK
from blip_core.parameters.models import Parameter

PIECE = 2**21
"""Bytes of a tensor that are prepared at a time, so that they stay in the processor's cache."""
WRITE = 2**19
"""Bytes that are written at a time. For more, Linux looks for larger areas of free memory, which can be slow."""
TILE = 512
"""Columns that are transposed at a time."""
LEAST_ROWS = 64
"""Rows that are prepared at a time at least: fewer would use only a part of every cache line that is fetched."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed: while it is loaded into a model, or written.

    Attributes:
        names: Its name in the checkpoint, or several for one that is stored once and listed under each.
        shape: In PyTorch's layout.
        dtype: The type of what `read` returns.
        read: Returns the value.
        parameter: Its row in the weight table; None for a buffer or an optimizer's state.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    parameter: Parameter | None = None

    @property
    def row(self) -> Parameter:
        """Its row in the weight table."""
        assert self.parameter is not None
        return self.parameter

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class About:
    """The model whose tensors are written: its class, and what `config.json` says of it."""

    head: str
    config: dict[str, Any]


def write_tensors(path: Path, places: Sequence[tuple[int, LazyTensor]], checksums: bool = False) -> list[int]:
    """Write each tensor at its offset in a file that exists, two at a time; return their CRC-32, or zeros.

    While the system writes one, the other is read, transposed and summed. The whole file is allocated first, so that
    a disk that is too small is noticed before anything is written.
    """

    def write(place: tuple[int, LazyTensor]) -> int:
        offset, tensor = place
        checksum = 0
        with open(path, "r+b") as file:
            file.seek(offset)
            for piece in pieces(tensor.read()):
                data = piece.reshape(-1).view(np.uint8)
                data[:: mmap.PAGESIZE].sum()  # reads the mapped pages ahead; without it this takes twice as long
                checksum = zlib.crc32(data.data, checksum) if checksums else 0
                for begin in range(0, len(data), WRITE):
                    file.write(data.data[begin : begin + WRITE])
        return checksum

    _allocate(path, max((offset + tensor.nbytes for offset, tensor in places), default=0))
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(write, places))


def _allocate(path: Path, size: int) -> None:
    """Reserve a file's bytes if the file system can. Raises `OSError` if it has too few."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL_DISK:  # others mean that it cannot; real faults show when it is written
                raise


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of an array, contiguous, as many at a time as fit the cache. A piece is valid until the next one.

    A large transposed tensor is never copied as a whole.
    """
    array = array.reshape(1) if array.ndim == 0 else array
    rows = max(1, min(len(array), max(LEAST_ROWS, PIECE * len(array) // max(array.nbytes, 1))))
    if array.flags.c_contiguous:
        yield from (array[begin : begin + rows] for begin in range(0, len(array), rows))
        return
    transposed = np.empty((rows, *array.shape[1:]), array.dtype)
    as_it_lies = np.empty_like(array[:rows][..., :TILE])
    for begin in range(0, len(array), rows):
        piece = array[begin : begin + rows]
        here = transposed[: len(piece)]
        for column in range(0, piece.shape[-1], TILE):
            tile = piece[..., column : column + TILE]
            near = as_it_lies[: len(piece)][..., : tile.shape[-1]]
            near[...] = tile  # row by row as it lies in the file, which is fast; then it is transposed in the cache
            here[..., column : column + TILE] = near
        yield here
