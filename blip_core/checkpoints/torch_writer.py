"""Writing files that `torch.load` reads, one tensor at a time and without PyTorch."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blip_core.checkpoints.checkpoint import DTYPES
from blip_core.checkpoints.torch_reader import STORAGES
from blip_core.checkpoints.writing import About, LazyTensor, write_tensors
from blip_core.config import BlipConfig
from blip_core.parameters.table import BUFFERS, TEXT, WORDS

ALIGNMENT = 64
STORAGE_NAMES = {DTYPES[dtype]: name for name, dtype in STORAGES.items()}


def arrange(tensors: Sequence[LazyTensor], original: bool = False) -> list[LazyTensor]:
    """Give every tensor its Hugging Face (or `original`) name and those of the tensors tied to it."""
    arranged = []
    for tensor in tensors:
        prefix = tensor.row.part.original_prefix() if original else tensor.row.part.prefixes[0]
        arranged.append(replace(tensor, names=(tensor.row.usual(prefix), *tensor.row.copies(prefix))))
    return arranged


def arrange_original(tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
    """As `arrange` with the original's names, and the position ids that its text models have as buffers."""
    return arrange(tensors, original=True) + list(_position_ids(tensors))


def _position_ids(tensors: Sequence[LazyTensor]) -> Iterator[LazyTensor]:
    rows = [tensor.row for tensor in tensors]
    for words in (row for row in rows if row.row is WORDS):
        part = words.part
        count = next(row.shape[0] for row in rows if row.part == part and row.row is TEXT[1])
        for prefix in (part.original_prefix(), *([part.copies] * bool(part.copies))):
            read = partial(_arange, count)
            yield LazyTensor((prefix + BUFFERS[0],), (1, count), np.dtype(np.int64), read)


def _arange(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)[None]


def differences_from_original(config: BlipConfig) -> list[str]:
    """Say which settings the original's code does not read, but takes to be as in the original."""
    text, vision = config.text_config, config.vision_config
    usual = {
        "vision_config.layer_norm_eps": (vision.layer_norm_eps, 1e-6),
        "vision_config.num_attention_heads": (vision.num_attention_heads, vision.hidden_size // 64),
        "text_config.num_attention_heads": (text.num_attention_heads, 12),
        "text_config.hidden_act": (text.hidden_act, "gelu"),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
    }
    return [
        f"{name} is {value}, where the original has {expected}: its code will compute something else."
        for name, (value, expected) in usual.items()
        if value != expected
    ]


def write_original(path: Path, tensors: Sequence[LazyTensor], about: About) -> None:
    """Write a file as the original does, with the tensors under "model", and the configuration beside them."""
    write(path, tensors, beside={"config": about.config})


def write(
    path: Path, tensors: Sequence[LazyTensor], about: About | None = None, beside: dict[str, Any] | None = None
) -> None:
    """Write a dictionary of tensors by name; with `beside`, under "model" of a dictionary that holds this as well.

    A tensor with several names is stored once, as `torch.save` stores tied ones.
    """
    records = {"data.pkl": _bytes(_pickle(tensors, beside)), "byteorder": _bytes(b"little")}
    records |= {f"data/{index}": tensor for index, tensor in enumerate(tensors)}
    records["version"] = _bytes(b"3\n")
    entries, end = [], 0
    for name, data in records.items():
        entry = zipfile.ZipInfo(f"archive/{name}")
        entry.file_size = entry.compress_size = data.nbytes
        entry.header_offset, entry.CRC = end, 0
        padding = -(end + len(entry.FileHeader()) + 4) % ALIGNMENT
        entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        begin = end + len(entry.FileHeader())
        entries.append((entry, begin))
        end = begin + data.nbytes
    path.touch()
    places = [(begin, data) for (_, begin), data in zip(entries, records.values(), strict=True)]
    checksums = write_tensors(path, places, checksums=True)
    with open(path, "r+b") as file, zipfile.ZipFile(file, "w") as archive:  # which adds the directory
        for (entry, _), checksum in zip(entries, checksums, strict=True):
            entry.CRC = checksum
            file.seek(entry.header_offset)
            file.write(entry.FileHeader())
            archive.filelist.append(entry)
        archive.start_dir = end


def _bytes(data: bytes) -> LazyTensor:
    return LazyTensor((), (len(data),), np.dtype(np.uint8), lambda: np.frombuffer(data, np.uint8))


@dataclass(frozen=True)
class _Global:
    """A function or class of PyTorch, which the pickle names."""

    module: str
    name: str

    def __call__(self) -> None:
        """The pickler asks that what it names can be called; nothing calls it here."""


@dataclass(frozen=True)
class _Storage:
    """A record of the file, as it appears in the pickle."""

    key: int
    dtype: np.dtype
    elements: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor that is a whole record, as it appears in the pickle."""

    storage: _Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> Any:
        strides = tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        rebuild = _Global("torch._utils", "_rebuild_tensor_v2")
        return rebuild, (self.storage, 0, self.shape, strides, False, OrderedDict())


class _Pickler(pickle._Pickler):  # the one in Python, which can write names of a package that is not there
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        return "storage", _Global("torch", STORAGE_NAMES[value.dtype]), str(value.key), "cpu", value.elements

    def save_name(self, value: _Global) -> None:
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())  # type: ignore[attr-defined]

    dispatch: ClassVar[Any] = {**pickle._Pickler.dispatch, _Global: save_name}


def _pickle(tensors: Sequence[LazyTensor], beside: dict[str, Any] | None) -> bytes:
    state: OrderedDict[str, _Tensor] = OrderedDict()
    for key, tensor in enumerate(tensors):
        storage = _Storage(key, tensor.dtype, math.prod(tensor.shape))
        state.update((name, _Tensor(storage, tensor.shape)) for name in tensor.names)
    data = io.BytesIO()
    _Pickler(data, protocol=2).dump(state if beside is None else {"model": state, **beside})
    return data.getvalue()
