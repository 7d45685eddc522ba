"""Files of safetensors: the canonical format.

The metadata may name tensors that are another one of the file, as `safetensors.torch.save_model` writes tied weights.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from blip_core.checkpoints.checkpoint import DTYPES, Extent, MappedCheckpoint, reason, without_wrappers
from blip_core.checkpoints.writing import About, LazyTensor, write_tensors

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: Path) -> MappedCheckpoint:
    """Open a file. Raises `ValueError` for a damaged one."""
    try:
        with safe_open(path, framework="np"):  # checks the whole header: sizes, offsets, overlaps
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({reason(error)}); restore or download it again."
        ) from None
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    tied: dict[str, str] = header.pop("__metadata__", {})
    unknown = {entry["dtype"] for entry in header.values()} - DTYPES.keys()
    if unknown:
        raise ValueError(f"{path} holds tensors of type {', '.join(sorted(unknown))}, which no BLIP model has.")
    extents = {
        name: Extent(tuple(entry["shape"]), DTYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    extents |= {name: extents[kept] for name, kept in tied.items() if kept in extents and name not in extents}
    return MappedCheckpoint(path, "safetensors", without_wrappers(path, extents))


def arrange(tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
    """Give every tensor its Hugging Face name; one with two names is written twice."""
    return [replace(tensor, names=(name,)) for tensor in tensors for name in tensor.names]


def write(path: Path, tensors: Sequence[LazyTensor], about: About | None = None) -> None:
    """Write a file; a tensor of several names is stored under the first, and the metadata have the others."""
    metadata = {"format": "pt"}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        name, *others = tensor.names
        metadata |= dict.fromkeys(others, name)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    start = struct.pack("<Q", len(text)) + text
    path.write_bytes(start)
    offsets = accumulate((tensor.nbytes for tensor in tensors), initial=len(start))
    write_tensors(path, list(zip(offsets, tensors, strict=False)))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of a dictionary as a file; each is taken out of it when it is written."""
    write(
        path, [LazyTensor((name,), a.shape, a.dtype, partial(arrays.__getitem__, name)) for name, a in arrays.items()]
    )
