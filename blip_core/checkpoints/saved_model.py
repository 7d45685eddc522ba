"""The weights of a SavedModel that our TensorFlow models exported, read without TensorFlow.

The variables of a SavedModel are an index (a sorted table of names, each with type, shape and offset) and a file of
raw values. The index is parsed here, every length checked; the values are read from the mapped file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blip_core.checkpoints.checkpoint import DTYPES, Extent, MappedCheckpoint, check_extents, shown_as_pytorch
from blip_core.parameters.heads import HEADS

INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
MAGIC = 0xDB4775248B80FB57
MAX_INDEX_BYTES = 64 * 2**20
MAX_AXES = 8
TYPES = {1: "F32", 2: "F64", 3: "I32", 9: "I64", 14: "BF16", 19: "F16"}
PREFIX, SUFFIX = "parameters/", "/.ATTRIBUTES/VARIABLE_VALUE"


def read(path: Path) -> MappedCheckpoint:
    """Open the parameters of an exported model, given its folder or its `saved_model.pb`.

    Raises `ValueError` for a damaged one, or one that this project did not export.
    """
    folder = path if path.is_dir() else path.parent
    index = folder / INDEX
    try:
        if index.stat().st_size > MAX_INDEX_BYTES or not (folder / DATA).is_file():
            raise ValueError("its variables are not as ours are")
        extents = dict(_extents(index.read_bytes()))
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OSError) as error:
        raise ValueError(f"{folder} is not a whole SavedModel of ours ({error}); export it again.") from None
    if not extents:
        raise ValueError(f"{folder} holds no parameters of a BLIP that this package exported.")
    path = folder / "saved_model.pb"
    check_extents(path, (folder / DATA).stat().st_size, extents)
    return MappedCheckpoint(path, "savedmodel", shown_as_pytorch(path, extents, _placed(extents)), data=folder / DATA)


def _placed(names: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Give each variable its layout and Hugging Face names, from the model that fits the variables best."""
    patterns = {name: _pattern(name) for name in names}
    rows = {
        head.name: {part.prefix + row.name: (part, row) for part in head.parts for row in part.rows}
        for head in HEADS.values()
    }
    present = set(patterns.values())
    found = min(rows.values(), key=lambda names: len(names.keys() ^ present))
    for name, pattern in patterns.items():
        if pattern in found:
            part, row = found[pattern]
            layer = next((step for step in name.split(".") if step.isdecimal()), None)
            yield name, row.layout, [saved.format(layer) for saved in part.saved_names(row)]
        else:
            yield name, "plain", [name]


def _pattern(name: str) -> str:
    return ".".join("{}" if step.isdecimal() else step for step in name.split("."))


def _extents(table: bytes) -> Iterator[tuple[str, Extent]]:
    """Yield the parameters of an index: a table of blocks; the last block has the positions of the others."""
    if len(table) < 48 or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise ValueError("its index is cut off")
    _, at = _handle(table, len(table) - 48)  # of metadata, which is not used
    blocks, _ = _handle(table, at)
    end = 0
    for _, value in _block(table, blocks):
        place, _ = _handle(value, 0)
        if place[0] < end:
            raise ValueError("blocks of its index overlap")
        end = sum(place)
        for key, value in _block(table, place):
            name = key.decode("utf-8", "replace")
            if not (name.startswith(PREFIX) and name.endswith(SUFFIX)):
                continue
            name = name.removeprefix(PREFIX).removesuffix(SUFFIX).replace("..", ".")
            entry: dict[int, Any] = dict(message(value))
            shape = tuple(dict(message(size)).get(1, 0) for field, size in message(entry.get(2, b"")) if field == 2)
            if entry.get(3, 0) or entry[1] not in TYPES or len(shape) > MAX_AXES:
                raise ValueError(f"{name} is not stored as ours are")
            yield name, Extent(shape, DTYPES[TYPES[entry[1]]], entry.get(4, 0), entry.get(5, 0))


def _block(table: bytes, place: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block; a key is stored without the prefix that it shares with the one before."""
    begin, size = place
    if begin + size + 5 > len(table) or table[begin + size]:
        raise ValueError("a block of its index is cut off or compressed")
    (restarts,) = struct.unpack_from("<I", table, begin + size - 4)
    at, end, key = begin, begin + size - 4 - 4 * restarts, b""
    while at < end:
        shared, at = _varint(table, at)
        added, at = _varint(table, at)
        length, at = _varint(table, at)
        if shared > len(key) or at + added + length > end:
            raise ValueError("a block of its index is damaged")
        key = key[:shared] + table[at : at + added]
        yield key, table[at + added : at + added + length]
        at += added + length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def message(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield fields and values of a protocol buffer."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + length > len(data):
            raise ValueError("an entry of its index is cut off")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of its index is too long")
