"""Files of `torch.save` (`.bin`, `.pth`, `.pt`, `.ckpt`), read without PyTorch and without running any code.

The pickle inside is read by an unpickler that knows the few names a checkpoint is made of and refuses all others. It
gives the place of every tensor, which is then read from the mapped file. The tensors may lie under the keys of common
trainers and have the prefixes of common wrappers.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from blip_core.checkpoints.checkpoint import DTYPES, Extent, MappedCheckpoint, reason, without_wrappers

MAX_PICKLE_BYTES = 64 * 2**20  # that of a pre-training checkpoint with its optimizer is less than 1 MB
MAX_AXES = 8
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which trainers save the tensors: the original and LAVIS, PyTorch Lightning, others."""
ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class Storage:
    """A record of the file: its type (a name of `DTYPES`), its key, and the number of its elements."""

    dtype: str
    key: str
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the pickle describes it; offset and strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> MappedCheckpoint:
    """Open a file. Raises `ValueError` for one that is damaged, or holds anything but tensors and plain values."""
    try:
        content, offsets = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        key = next((key for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
        tensors = content[key] if key else content
        extents = _extents(tensors, offsets) if isinstance(tensors, dict) else {}
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and was not loaded, as it could run code ({reason(error)}). "
            "If you trust it, save its tensors alone: "
            "torch.save(torch.load(path, weights_only=False)['state_dict'], 'tensors.pth')."
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(
            f"{path} is damaged or not a PyTorch checkpoint ({reason(error)}); download it again."
        ) from None
    if not extents:
        raise ValueError(f"{path} must hold a dictionary of tensors by name, as torch.save of a state_dict writes it.")
    config = content.get("config") if key else None  # the original's own is of its training, and is not used
    is_blip = isinstance(config, dict) and config.get("model_type") == "blip"
    named = without_wrappers(path, extents)
    return MappedCheckpoint(path, "pth" if key else "pytorch_model.bin", named, config=config if is_blip else None)


def _extents(tensors: dict[Any, Any], offsets: dict[str, int]) -> dict[str, Extent]:
    extents = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, StoredTensor):
            if not isinstance(name, str):
                raise ValueError(f"the name of a tensor is {name!r}")
            dtype = DTYPES[tensor.storage.dtype]
            begin = offsets[tensor.storage.key] + tensor.offset * dtype.itemsize
            strides = tuple(step * dtype.itemsize for step in tensor.strides)
            extents[name] = Extent(tensor.shape, dtype, begin, strides=strides if math.prod(tensor.shape) else None)
    return extents


def _read_zip(path: Path) -> tuple[Any, dict[str, int]]:
    """Return what the pickle holds, with `StoredTensor`s, and where each record begins in the file."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        records = {info.filename: info for info in archive.infolist()}
        (name,) = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        info = records[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_PICKLE_BYTES:
            raise ValueError("its pickle is compressed or too large")
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in records and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        data = {
            key.removeprefix(f"{folder}data/"): record
            for key, record in records.items()
            if key.startswith(f"{folder}data/") and record.compress_type == zipfile.ZIP_STORED
        }
        sizes = {key: record.file_size for key, record in data.items()}
        content = _Unpickler(io.BytesIO(archive.read(info)), sizes).load()
        return content, {key: _data_offset(file, record, path.stat().st_size) for key, record in data.items()}


def _data_offset(file: io.BufferedReader, record: zipfile.ZipInfo, file_size: int) -> int:
    """Return where the bytes of a record begin, after its header, whose length the directory does not tell."""
    file.seek(record.header_offset)
    signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
    begin: int = record.header_offset + 30 + name + extra
    if signature != ZIP_START or begin + record.file_size > file_size:
        raise ValueError(f"record {record.filename} does not lie where it should")
    return begin


def _read_legacy(path: Path) -> tuple[Any, dict[str, int]]:
    """As `_read_zip`, for a file of PyTorch before 1.6: five pickles, and then the length and bytes of each storage."""
    with open(path, "rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if head.getvalue()[:4] == ZIP_START:
            raise ValueError("its end is missing")
        magic, protocol, system = (_Unpickler(head, {}).load() for _ in range(3))
        if (magic, protocol) != (LEGACY_MAGIC, LEGACY_PROTOCOL) or not system["little_endian"]:
            raise ValueError("it does not begin as a file of torch.save")
        unpickler = _Unpickler(head, None)
        content = unpickler.load()
        keys = _Unpickler(head, {}).load()
        at, end, offsets = head.tell(), path.stat().st_size, {}
        for key in keys:
            storage = unpickler.storages[key]
            file.seek(at)
            (elements,) = struct.unpack("<q", file.read(8))
            offsets[key], at = at + 8, at + 8 + elements * DTYPES[storage.dtype].itemsize
            if elements != storage.elements or at > end:
                raise ValueError(f"storage {key} is cut off")
        return content, offsets


def _with_checked_keys(method: Callable[[Any], None], at: slice) -> Callable[[Any], None]:
    """Let a method of the unpickler refuse keys that take long to hash, or run code when compared."""

    def checked(unpickler: Any) -> None:
        if not all(isinstance(key, str | int) for key in unpickler.stack[at]):
            raise ValueError("its keys are not names")
        method(unpickler)

    return checked


class _Unpickler(pickle._Unpickler):  # the one in Python; the one in C makes room for any claimed memo index
    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEMS[0]: _with_checked_keys(pickle._Unpickler.dispatch[pickle.SETITEMS[0]], slice(None, None, 2)),
        pickle.SETITEM[0]: _with_checked_keys(pickle._Unpickler.dispatch[pickle.SETITEM[0]], slice(-2, -1)),
    }

    def __init__(self, file: io.BytesIO, sizes: dict[str, int] | None):
        """`sizes` of the records in bytes, against which storages are checked; None where they are not known yet."""
        super().__init__(file, encoding="utf-8")
        self.sizes = sizes
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        # Functions are made for each file: a pickle can set attributes of what it is given.
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            rebuild: Callable[..., Any] = _rebuild_tensor if name == "_rebuild_tensor_v2" else _rebuild_parameter
            return lambda *args: rebuild(*args)
        if module == "torch" and (name == "Size" or name.islower()):  # types and layouts in an optimizer's settings
            return lambda *args: None
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, elements, *view = pid
        if kind != "storage" or any(view):  # a view of another storage, which only PyTorch before 0.4 wrote
            raise ValueError("a storage is not as PyTorch writes it")
        if self.sizes is not None and elements * DTYPES[dtype].itemsize > self.sizes[key]:
            raise ValueError(f"record {key} is shorter than its tensor")
        return self.storages.setdefault(key, Storage(dtype, key, elements))


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    shape, stride = tuple(int(size) for size in shape), tuple(int(step) for step in stride)
    if len(shape) != len(stride) or len(shape) > MAX_AXES or min((0, offset, *shape, *stride)) < 0:
        raise ValueError("a tensor has a size that cannot be")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(shape) > storage.elements or (math.prod(shape) and last >= storage.elements):
        raise ValueError("a tensor is larger than its record")
    return StoredTensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor: StoredTensor, *rest: Any) -> StoredTensor:
    return tensor
