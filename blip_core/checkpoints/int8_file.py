"""Files of int8 weights: safetensors in which the linear layers of the transformers are rounded to 8 bits.

Such a weight lies in the file as int8 under its own name, and beside it, with `_scale` added, a float32 number for each
output by which its row is multiplied. Everything else is as in `safetensors_file.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from blip_core.checkpoints import safetensors_file
from blip_core.checkpoints.checkpoint import Extent, MappedCheckpoint, Rounded
from blip_core.checkpoints.writing import LazyTensor

SCALE = "_scale"
INT8, FLOAT32 = np.dtype(np.int8), np.dtype(np.float32)


class Int8Checkpoint(MappedCheckpoint):
    """A checkpoint whose rounded weights are shown as float32; `rounded` has them as they lie in the file."""

    def __init__(self, path: Path, extents: dict[str, Extent]):
        rounded = {name for name, extent in extents.items() if extent.dtype == INT8}
        for name in sorted(rounded):
            scale = extents.get(name + SCALE)
            if scale is None or scale.dtype != FLOAT32 or scale.shape != extents[name].shape[:1] or not scale.shape:
                raise ValueError(f"{path} is damaged: {name} has no scale for each of its rows; convert it again.")
        super().__init__(path, "int8", extents)
        for name in rounded:
            self.dtypes[name] = FLOAT32
            del self.shapes[name + SCALE], self.dtypes[name + SCALE]

    def rounded(self, name: str) -> Rounded | None:
        """The int8 numbers and scales of a weight, views of the file; None for one that is not rounded."""
        if self.extents[name].dtype != INT8:
            return None
        return Rounded(super().__getitem__(name), super().__getitem__(name + SCALE))

    def __getitem__(self, name: str) -> np.ndarray:
        found = self.rounded(name)
        return super().__getitem__(name) if found is None else found.dequantised()


def read(path: Path) -> Int8Checkpoint:
    """Open a file. Raises `ValueError` for a damaged one."""
    return Int8Checkpoint(path, safetensors_file.read(path).extents)


def arrange(tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
    """Give every tensor its Hugging Face name, and split a weight that is rounded into its numbers and its scales."""
    arranged = []
    for tensor in safetensors_file.arrange(tensors):
        if not is_rounded(tensor):
            arranged.append(tensor)
            continue
        (name,) = tensor.names
        numbers = replace(tensor, dtype=INT8, read=partial(_part, tensor, 0))
        scale = replace(tensor, names=(name + SCALE,), shape=tensor.shape[:1], dtype=FLOAT32)
        arranged += [numbers, replace(scale, read=partial(_part, tensor, 1))]
    return arranged


def is_rounded(tensor: LazyTensor) -> bool:
    """Say whether a tensor is the weight of a linear layer within a transformer, as `quantize()` rounds them."""
    return tensor.row.row.layout == "linear" and bool(IN_A_LAYER.search(tensor.row.name))


IN_A_LAYER = re.compile(r"\bencoder\.layers?\.")
"""What the names of the layers' modules have in common."""


def round_weight(weight: np.ndarray) -> Rounded:
    """Round a weight (out, in) to int8, each row by its greatest number. Raises `ValueError` for one that has none."""
    weight = weight.astype(np.float32, copy=False)
    if not np.isfinite(weight).all():
        raise ValueError("A weight holds numbers that are not finite, which int8 cannot; train or convert it anew.")
    scale = np.maximum(np.maximum(weight.max(1), -weight.min(1)), np.float32(1e-30)) / np.float32(127)
    return Rounded(np.rint(weight / scale[:, None]).astype(np.int8), scale)


def _part(tensor: LazyTensor, index: int) -> np.ndarray:
    return round_weight(tensor.read())[index]
