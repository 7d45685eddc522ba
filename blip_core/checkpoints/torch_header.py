"""What a file of `torch.save` holds, read without PyTorch: names, shapes and types, never a tensor.

The pickle inside is read by an unpickler that knows the few names a checkpoint is made of and runs no other, so that
nothing in a file can run code. Only tensors' sizes are kept.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from blip_core.checkpoints.checkpoint import DTYPES, Checkpoint, blip_settings, is_wrapped, reason

MAX_PICKLE_BYTES = 64 * 2**20  # that of a pre-training checkpoint with its optimizer is less than 1 MB
MAX_AXES = 8
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A record of the file: its type and the number of its elements."""

    dtype: np.dtype
    elements: int


@dataclass(frozen=True)
class TensorHeader:
    """A tensor's shape and type."""

    shape: tuple[int, ...]
    dtype: np.dtype


class TorchHeader(Checkpoint):
    """Names, shapes and types of the tensors of a zip of `torch.save`. Raises `ValueError` for any other content."""

    def __init__(self, path: Path):
        try:
            content = _read_pickle(path)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} holds more than tensors and will not be loaded ({reason(error)}).") from None
        except Exception as error:  # a damaged pickle can fail in any way
            raise ValueError(
                f"{path} is damaged or not a PyTorch checkpoint ({reason(error)}); download it again."
            ) from None
        wrapped = is_wrapped(content)
        tensors = content["model"] if wrapped else content
        if not isinstance(tensors, dict) or not any(isinstance(value, TensorHeader) for value in tensors.values()):
            raise ValueError(f"{path} must hold a dictionary of tensors by name, as torch.save of a state_dict writes.")
        headers = {name: value for name, value in tensors.items() if isinstance(value, TensorHeader)}
        shapes = {name: header.shape for name, header in headers.items()}
        dtypes = {name: header.dtype for name, header in headers.items()}
        super().__init__(path, "pth" if wrapped else "pytorch_model.bin", shapes, dtypes)
        self.config = blip_settings(content) if wrapped else None


def _read_pickle(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        (name,) = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        info = records[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_PICKLE_BYTES:
            raise ValueError("its pickle is compressed or too large")
        sizes = {
            key.split("/")[-1]: record.file_size for key, record in records.items() if key.split("/")[1:2] == ["data"]
        }
        return _HeaderUnpickler(io.BytesIO(archive.read(info)), sizes).load()


def _with_checked_keys(method: Callable[[Any], None], at: slice) -> Callable[[Any], None]:
    """Let a method of the unpickler refuse keys that take long to hash, or run code when compared."""

    def checked(unpickler: Any) -> None:
        if not all(isinstance(key, str | int) for key in unpickler.stack[at]):
            raise ValueError("its keys are not names")
        method(unpickler)

    return checked


class _HeaderUnpickler(pickle._Unpickler):  # the one in Python: the one in C makes room for any claimed memo index
    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEMS[0]: _with_checked_keys(pickle._Unpickler.dispatch[pickle.SETITEMS[0]], slice(None, None, 2)),
        pickle.SETITEM[0]: _with_checked_keys(pickle._Unpickler.dispatch[pickle.SETITEM[0]], slice(-2, -1)),
    }

    def __init__(self, file: io.BytesIO, sizes: dict[str, int]):
        super().__init__(file, encoding="utf-8")
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        # Functions are made anew for each file: a pickle can set attributes of what it is given.
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return DTYPES[STORAGES[name]]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            rebuild: Callable[..., Any] = _rebuild_tensor if name == "_rebuild_tensor_v2" else _rebuild_parameter
            return lambda *args: rebuild(*args)
        if module == "torch" and (name == "Size" or name.islower()):  # types and layouts in an optimizer's settings
            return lambda *args: None
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        _, dtype, key, _, elements = pid
        if elements * dtype.itemsize > self.sizes[key]:
            raise ValueError(f"record {key} is shorter than its tensor")
        return Storage(dtype, elements)


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> TensorHeader:
    shape = tuple(int(size) for size in shape)
    if len(shape) != len(stride) or len(shape) > MAX_AXES or min((0, offset, *shape, *stride)) < 0:
        raise ValueError("a tensor has a size that cannot be")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.elements:
        raise ValueError("a tensor is larger than its record")
    return TensorHeader(shape, storage.dtype)


def _rebuild_parameter(tensor: TensorHeader, *rest: Any) -> TensorHeader:
    return tensor
