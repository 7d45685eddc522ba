"""Checks of a conversion: tied tensors agree, and the destination holds bit by bit what was to be written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from blip_core.checkpoints import Checkpoint, Format
from blip_core.checkpoints.formats import open_written
from blip_core.checkpoints.writing import LazyTensor, pieces
from blip_core.parameters.matching import Match


def check_tied(checkpoint: Checkpoint, found: Match) -> None:
    """Raise a `ValueError` if copies of a tied tensor differ, as a model has only one of them."""
    for name, copies in found.tied.items():
        for copy in copies:
            if not same(checkpoint[name], checkpoint[copy]):
                raise ValueError(
                    f"{copy} differs from {name}, with which it must be equal (tied); remove the one that is stale."
                )


def verify(path: Path, format: Format, tensors: Sequence[LazyTensor]) -> None:
    """Read a new destination again and compare it with what was to be written, name by name and bit by bit.

    Raises `OSError` if they differ: the disk, or this program, has failed.
    """
    written = open_written(path, format)
    named = {name: tensor for tensor in tensors for name in tensor.names}
    if written.keys() != named.keys():
        wrong = sorted(written.keys() ^ named.keys())
        raise OSError(f"What was written does not hold the right tensors: {', '.join(wrong[:5])}.")

    def right(name: str) -> bool:
        return written.dtypes[name] == named[name].dtype and same(written[name], named[name].read())

    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, good in zip(named, pool.map(right, named), strict=True):
            if not good:
                raise OSError(f"What was written differs from what was to be written in {name}; check the disk.")


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays hold the same bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.flags.f_contiguous and other.flags.f_contiguous:
        one, other = one.T, other.T
    return all(np.array_equal(_bits(a), _bits(b)) for a, b in zip(pieces(one), pieces(other), strict=True))


def _bits(piece: np.ndarray) -> np.ndarray:
    flat = piece.reshape(-1).view(np.uint8)
    return flat.view(np.uint64) if flat.size % 8 == 0 and flat.flags.aligned else flat
