"""Writing a model in the Hugging Face layout: what both backends' `save_pretrained` share."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints.checkpoint import DTYPES
from blip_core.files import FULL_DISK, atomic_path, write_json
from blip_core.generation import GenerationConfig
from blip_core.parameters.models import AnyConfig, Parameter

PIECE = 2**21
"""Bytes of a tensor that are prepared at a time: what a processor keeps near."""
WRITE = 2**19
"""Bytes that are written at a time. For more, Linux looks for larger areas of free memory, which may take it long."""
TILE = 512
"""Columns that are transposed at a time."""
LEAST_ROWS = 64
"""Rows at a time, however long: of fewer, a little of each cache line is taken, which is fetched again for the next."""

SAFE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor to be written: what a file says of it in advance, and how to get its value.

    `names` has one name, or several for a tensor that the file holds once and lists under each.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_pretrained(
    folder: str | Path,
    model: str,
    config: AnyConfig,
    wanted: Sequence[Parameter],
    tensors: Callable[[Parameter], np.ndarray],
    *,
    generation_config: GenerationConfig | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write `config.json`, `generation_config.json` and the weights of a model in the Hugging Face layout.

    `tensors` gives the value of one of the `wanted` parameters in PyTorch's layout; one is asked for at a time. New
    files take the place of old ones only when they are whole, so that a save that is interrupted leaves the earlier
    model readable.
    Raises `OSError` where the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; save_pretrained needs a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    stored = [Stored((name,), p.shape, tensors(p).dtype, partial(tensors, p)) for p in wanted for name in p.stored_as]
    write_weights(folder, "model.safetensors", stored, write_safetensors, max_shard_size)
    write_json(folder / "config.json", config_dict(model, config, stored[0].dtype))
    if generation_config is not None:
        generation_config.save_pretrained(folder)


def config_dict(model: str, config: AnyConfig, dtype: np.dtype) -> dict[str, Any]:
    """What `config.json` says of a model whose weights are of a type."""
    return config.to_dict() | {"architectures": [model], "dtype": dtype.name}


def write_weights(
    folder: Path,
    name: str,
    tensors: Sequence[Stored],
    write: Callable[[Path, Sequence[Stored]], None],
    max_shard_size: int | str,
) -> None:
    """Write tensors, read one at a time, as the file `name` or as shards of at most `max_shard_size` bytes.

    `write` writes one file. Files of an older model go when the new one is whole.
    """
    stem, suffix = name.split(".")
    shards = _split(tensors, parse_size(max_shard_size))
    index = folder / f"{name}.index.json"
    old = [*folder.glob(f"{stem}-*.{suffix}"), folder / name, index]
    new = [folder / name]
    if len(shards) > 1:
        # Shards never take the name of an older one: until the index is replaced, the old model stays readable.
        tag = f"{uuid.uuid4().hex[:8]}-" if any(path.exists() for path in old) else ""
        new = [folder / f"{stem}-{tag}{i + 1:05}-of-{len(shards):05}.{suffix}" for i in range(len(shards))]
    for path, shard in zip(new, shards, strict=True):
        with atomic_path(path) as temporary:
            write(temporary, shard)
    if len(shards) > 1:
        weight_map = {
            name: path.name
            for path, shard in zip(new, shards, strict=True)
            for tensor in shard
            for name in tensor.names
        }
        total = sum(tensor.nbytes for tensor in tensors)
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        new.append(index)
    for path in old:
        if path not in new:
            path.unlink(missing_ok=True)


def _split(tensors: Sequence[Stored], limit: int) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def write_safetensors(path: Path, tensors: Sequence[Stored]) -> None:
    """Write one safetensors file, in which every tensor has one name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        (name,) = tensor.names
        header[name] = {"dtype": SAFE_NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    start = struct.pack("<Q", len(text)) + text
    path.write_bytes(start)
    offsets = accumulate((tensor.nbytes for tensor in tensors), initial=len(start))
    write_tensors(path, list(zip(offsets, tensors, strict=False)))


def write_tensors(path: Path, places: Sequence[tuple[int, Stored]], checksums: bool = False) -> list[int]:
    """Write each tensor at its offset in a file that exists, two at a time; returns their CRC-32, or zeros.

    While the system takes the bytes of one, the other is read, transposed and summed. Room for all is taken at once,
    so that a disk that is too small is found before anything is written, and the system has less to do later.
    """

    def write(place: tuple[int, Stored]) -> int:
        offset, tensor = place
        checksum = 0
        with open(path, "r+b") as file:
            file.seek(offset)
            for piece in pieces(tensor.read()):
                data = piece.reshape(-1).view(np.uint8)
                data[:: mmap.PAGESIZE].sum()  # has the pages of a mapped file at hand, which else takes twice as long
                checksum = zlib.crc32(data.data, checksum) if checksums else 0
                for begin in range(0, len(data), WRITE):
                    file.write(data.data[begin : begin + WRITE])
        return checksum

    _take_room(path, max((offset + tensor.nbytes for offset, tensor in places), default=0))
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(write, places))


def _take_room(path: Path, size: int) -> None:
    """Have the file system reserve a file's bytes, where it can. Raises `OSError` where it has too few."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL_DISK:  # a file system may have no such call; what else is wrong shows later
                raise


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an array, contiguous, as many at a time as a processor keeps near. Each is gone with the next one.

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
            near[...] = tile  # row by row as the file has it, which is fast; transposing it then stays in the cache
            here[..., column : column + TILE] = near
        yield here


def parse_size(size: int | str) -> int:
    """Bytes of a size such as `5GB`, `200MB`, `1GiB`, or a number of bytes. Raises `ValueError` for anything else."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if not found or found[2].upper() not in units or not (count := int(float(found[1]) * units[found[2].upper()])):
        raise ValueError(f"max_shard_size must be a size such as '5GB' or '200MB', got {size!r}.")
    return count
