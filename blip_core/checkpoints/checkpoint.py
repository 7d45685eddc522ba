"""An opened checkpoint: tensors by name, read when they are asked for, usually as views of a mapped file."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from blip_core.parameters.models import TO_TENSORFLOW

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype("int64"), "I32": np.dtype("int32"),
    "I16": np.dtype("int16"), "I8": np.dtype("int8"), "U8": np.dtype("uint8"), "BOOL": np.dtype("bool"),
}  # fmt: skip
"""The types that a checkpoint may hold, by their names in safetensors. bfloat16 is that of `ml_dtypes`."""

WRAPPED = re.compile(r"^(?:(?:module|model|_orig_mod)\.)+|(?<=\.)_orig_mod\.")


class Rounded(NamedTuple):
    """A weight of int8 numbers (out, in) and the float32 scale (out,) of each row."""

    weight: np.ndarray
    scale: np.ndarray

    def dequantised(self) -> np.ndarray:
        """Return the weight, float32 (out, in)."""
        weight: np.ndarray = self.weight * self.scale[:, None]
        return weight


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name.

    `checkpoint[name]` reads one tensor; `shapes` and `dtypes` describe all of them without reading any. An array may
    be a view of the mapped file: writing to it changes memory, never the file.

    Attributes:
        path: The file of the weights, or the index of a sharded checkpoint.
        format: The name of its format, a key of `FORMATS`.
        shapes: Shapes by name.
        dtypes: Types by name.
        config: The BLIP configuration inside the file, where it holds one; a `.pth` written by `convert` does.
        adapter: What the adapter is that lies upon it, for reports; None for a checkpoint without one.
        needed: The tensors that the adapter changes, all of which a model must have.
        untied: Whether the adapter changes the projection to the vocabulary alone, and not the word embeddings.
    """

    adapter: dict[str, Any] | None = None
    needed: frozenset[str] = frozenset()
    untied: bool = False

    def __init__(
        self,
        path: Path,
        format: str,
        shapes: dict[str, tuple[int, ...]],
        dtypes: dict[str, np.dtype],
        config: dict[str, Any] | None = None,
    ):
        self.path = path
        self.format = format
        self.shapes = shapes
        self.dtypes = dtypes
        self.config = config

    @property
    def folders(self) -> list[Path]:
        """Where the files that go with it may lie: the adapter's folder, if there is one, and that of the weights."""
        return [*([Path(self.adapter["path"]).parent] if self.adapter else ()), self.path.parent]

    def place(self, name: str) -> Any:
        """Return where a tensor is stored, the same for all names of it."""
        return name

    def rounded(self, name: str) -> Rounded | None:
        """Return a weight that is stored as int8 as it is; None for any other."""
        return None

    def release(self, name: str) -> None:
        """Say that a tensor was copied, so that what was read of the file need not stay in memory."""

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        raise KeyError(name)


class MemoryCheckpoint(Checkpoint):
    """Tensors in memory, copied when they are read; `path` is where their file would be."""

    def __init__(self, path: Path, tensors: Mapping[str, np.ndarray]):
        self._tensors = {without_wrapper(name): tensor for name, tensor in tensors.items()}
        shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        super().__init__(path, "state_dict", shapes, {name: tensor.dtype for name, tensor in self._tensors.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].copy()


@dataclass(frozen=True)
class Extent:
    """Where a tensor lies in a file: from byte `offset` on, row by row or with `strides` in bytes.

    `size` is the number of bytes that the file claims for it, where it claims one. `axes` is the order in which the
    axes are shown, for a file whose layout is not PyTorch's.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    size: int | None = None
    strides: tuple[int, ...] | None = None
    axes: tuple[int, ...] = ()


class MappedCheckpoint(Checkpoint):
    """A checkpoint whose tensors lie uncompressed in one file, `data`, which is mapped into memory.

    Attributes:
        extents: Where each tensor lies.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        extents: dict[str, Extent],
        *,
        data: Path | None = None,
        config: dict[str, Any] | None = None,
    ):
        data = data or path
        self._bytes = np.memmap(data, mode="c") if data.stat().st_size else np.zeros(0, np.uint8)
        self.extents = extents
        dtypes = {name: extent.dtype for name, extent in extents.items()}
        super().__init__(path, format, {name: _shape(extent) for name, extent in extents.items()}, dtypes, config)

    def place(self, name: str) -> Any:
        return self.extents[name].offset

    def __getitem__(self, name: str) -> np.ndarray:
        extent = self.extents[name]
        array: np.ndarray = np.ndarray(extent.shape, extent.dtype, self._bytes.data, extent.offset, extent.strides)
        array = array if array.flags.aligned else array.copy()
        return array.transpose(extent.axes) if extent.axes else array

    def release(self, name: str) -> None:
        extent, mapped = self.extents[name], getattr(self._bytes, "_mmap", None)
        if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        # Whole pages of this tensor alone. Nobody writes while a model is loaded, so that nothing is lost.
        begin = -(-extent.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (extent.offset + math.prod(extent.shape) * extent.dtype.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            mapped.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _shape(extent: Extent) -> tuple[int, ...]:
    return tuple(extent.shape[axis] for axis in extent.axes) if extent.axes else extent.shape


def check_extents(path: Path, file_size: int, extents: Mapping[str, Extent]) -> None:
    """Raise a `ValueError` if a tensor has another size than it claims, overlaps another, or ends beyond the file."""
    end = 0
    for name, extent in sorted(extents.items(), key=lambda item: item[1].offset):
        size = math.prod(extent.shape) * extent.dtype.itemsize
        if size != extent.size or (size and extent.offset < end) or extent.offset + size > file_size:
            raise ValueError(f"{path} is damaged: {name} does not lie where it should; download it again.")
        end = max(end, extent.offset + size)


def shown_as_pytorch(
    path: Path, extents: Mapping[str, Extent], placed: Iterable[tuple[str, str, list[str]]]
) -> dict[str, Extent]:
    """Return the tensors of a file in TensorFlow's layout by Hugging Face name and in PyTorch's layout.

    `placed` gives for each tensor of the file its name there, its layout, and its Hugging Face names, several if
    the file holds it once for all of them. Raises `ValueError` if two tensors have the same name.
    """
    shown: dict[str, Extent] = {}
    for tensor, layout, names in placed:
        axes = TO_TENSORFLOW.get(layout, ())
        fits = len(axes) == len(extents[tensor].shape)
        extent = replace(extents[tensor], axes=tuple(map(int, np.argsort(axes))) if fits else ())
        for name in names:
            if name in shown:
                raise ValueError(f"{path} holds {name} twice.")
            shown[name] = extent
    return shown


def without_wrapper(name: str) -> str:
    """Return a tensor's name without what wrapping a model adds to it.

    DataParallel, PyTorch Lightning and `torch.compile` add `module.`, `model.` and `_orig_mod.`.
    """
    return WRAPPED.sub("", name)


def without_wrappers(path: Path, extents: Mapping[str, Extent]) -> dict[str, Extent]:
    """Return tensors with such names. Raises `ValueError` if two of them are then the same."""
    named = {without_wrapper(name): extent for name, extent in extents.items()}
    if len(named) < len(extents):
        raise ValueError(f"{path} holds some tensors twice, with and without the prefix of a wrapped model.")
    return named


def reason(error: Exception) -> str:
    """Return what another library says is wrong with a file, as one line of limited length."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
