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

from blip_core.checkpoint import DTYPES
from blip_core.saving import Stored, pieces
from conversion.torch_header import STORAGES

ALIGNMENT = 64
STORAGE_NAMES = {DTYPES[dtype]: name for name, dtype in STORAGES.items()}


def write_torch(path: Path, tensors: Sequence[Stored], beside: dict[str, Any] | None = None) -> None:
    """Write a dictionary of tensors by name; with `beside`, under "model" of a dictionary that holds this as well.

    A tensor with several names is stored once, as `torch.save` stores tied ones.
    """
    with open(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, file, "data.pkl", _pickle(tensors, beside))
        _write_record(archive, file, "byteorder", b"little")
        for index, tensor in enumerate(tensors):
            _write_record(archive, file, f"data/{index}", tensor)
        _write_record(archive, file, "version", b"3\n")


def _write_record(archive: zipfile.ZipFile, file: Any, name: str, data: bytes | Stored) -> None:
    record = zipfile.ZipInfo(f"archive/{name}")
    record.file_size = data.nbytes if isinstance(data, Stored) else len(data)
    large = record.file_size * 1.05 > zipfile.ZIP64_LIMIT  # where zipfile itself adds the field of 64-bit sizes
    begin = file.tell() + 30 + len(record.filename) + 4 + 20 * large
    padding = -begin % ALIGNMENT
    record.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(record, "w") as out:
        for piece in [np.frombuffer(data, np.uint8)] if isinstance(data, bytes) else pieces(data.read()):
            out.write(piece.view(np.uint8).data)


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
