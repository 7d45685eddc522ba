"""Writing a file of `torch.save` one tensor at a time, which `torch.save` itself cannot."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints.checkpoint import DTYPES
from blip_core.checkpoints.saving import Stored, write_tensors
from blip_core.checkpoints.torch_header import STORAGES

ALIGNMENT = 64
STORAGE_NAMES = {DTYPES[dtype]: name for name, dtype in STORAGES.items()}


def write_torch(path: Path, tensors: Sequence[Stored], beside: dict[str, Any] | None = None) -> None:
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


def _bytes(data: bytes) -> Stored:
    return Stored((), (len(data),), np.dtype(np.uint8), lambda: np.frombuffer(data, np.uint8))


class _Storage:
    """A record of the file, as it appears in the pickle."""

    def __init__(self, key: int, dtype: np.dtype, elements: int):
        self.key, self.dtype, self.elements = key, dtype, elements


class _Tensor:
    """A tensor that is a whole record, as it appears in the pickle."""

    def __init__(self, storage: _Storage, shape: tuple[int, ...]):
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> Any:
        import torch

        strides = tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        import torch

        kind = getattr(torch, STORAGE_NAMES[value.dtype])
        return "storage", kind, str(value.key), "cpu", value.elements


def _pickle(tensors: Sequence[Stored], beside: dict[str, Any] | None) -> bytes:
    state: OrderedDict[str, _Tensor] = OrderedDict()
    for key, tensor in enumerate(tensors):
        storage = _Storage(key, tensor.dtype, math.prod(tensor.shape))
        state.update((name, _Tensor(storage, tensor.shape)) for name in tensor.names)
    data = io.BytesIO()
    _Pickler(data, protocol=2).dump(state if beside is None else {"model": state, **beside})
    return data.getvalue()
