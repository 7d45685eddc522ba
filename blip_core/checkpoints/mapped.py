"""Tensors that lie in one piece each in a mapped file, and a checkpoint of such that TensorFlow wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.parameters.models import TO_TENSORFLOW


@dataclass(frozen=True)
class Extent:
    """Where a file says that a tensor lies: `offset` and `size` in bytes, as yet unchecked."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    size: int


@dataclass(frozen=True)
class Placed:
    """What a tensor of the file is: its Hugging Face names, of which the later are copies, and its layout."""

    tensor: str
    layout: str
    names: list[str]


class TensorFlowCheckpoint(Checkpoint):
    """Tensors of a file in TensorFlow's layout, shown in PyTorch's under Hugging Face names.

    They come as views of the mapped file. Raises `ValueError` where one does not lie within the file, or overlaps
    another, or is there twice.
    """

    def __init__(self, path: Path, format: str, data: Path, extents: dict[str, Extent], placed: Iterable[Placed]):
        self._bytes = np.memmap(data, mode="c") if data.stat().st_size else np.zeros(0, np.uint8)
        end = 0
        for name, extent in sorted(extents.items(), key=lambda item: item[1].offset):
            size = math.prod(extent.shape) * extent.dtype.itemsize
            if size != extent.size or (size and extent.offset < end) or extent.offset + size > self._bytes.size:
                raise ValueError(f"{path} is damaged: {name} does not lie where it should; download it again.")
            end = max(end, extent.offset + size)
        self._places: dict[str, tuple[Extent, str]] = {}
        for entry in placed:
            for name in entry.names:
                if name in self._places:
                    raise ValueError(f"{path} holds {name} twice.")
                self._places[name] = extents[entry.tensor], entry.layout
        dtypes = {name: extent.dtype for name, (extent, _) in self._places.items()}
        super().__init__(path, format, {name: self[name].shape for name in self._places}, dtypes)

    def __getitem__(self, name: str) -> np.ndarray:
        extent, layout = self._places[name]
        raw = np.asarray(self._bytes[extent.offset : extent.offset + extent.size])
        array = raw.view(extent.dtype).reshape(extent.shape)
        axes = TO_TENSORFLOW.get(layout, ())
        return array.transpose(np.argsort(axes)) if axes and len(axes) == array.ndim else array
