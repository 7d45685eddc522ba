"""Proving that nothing changed: copies of tied tensors that agree, and files that hold what was to be written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.formats import open_any
from blip_core.checkpoints.keras_files import open_keras
from blip_core.checkpoints.plan import Plan
from blip_core.checkpoints.saving import pieces
from blip_core.parameters.matching import Match


def check_tied(checkpoint: Checkpoint, found: Match) -> None:
    """Raise a `ValueError` where copies of a tied tensor differ, of which a BLIP can keep only one."""
    for name, copies in found.tied.items():
        for copy in copies:
            if not same(checkpoint[name], checkpoint[copy]):
                raise ValueError(
                    f"{copy} differs from {name}, with which it must be equal (tied); remove the one that is stale."
                )


def verify(path: Path, plan: Plan) -> None:
    """Read a new destination again and compare it with what was to be written, name by name and bit by bit.

    Raises `OSError` where they differ: the disk, or this program, has failed.
    """
    keras = None if path.is_file() else next(path.glob("*.h5"), None)
    written = open_keras(keras, own=True) if keras else open_any(path)
    if written.keys() != plan.names.keys():
        wrong = sorted(written.keys() ^ plan.names.keys())
        raise OSError(f"What was written does not hold the right tensors: {', '.join(wrong[:5])}.")

    def right(name: str) -> bool:
        stored = plan.names[name]
        return written.dtypes[name] == stored.dtype and same(written[name], stored.read())

    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, good in zip(plan.names, pool.map(right, plan.names), strict=True):
            if not good:
                raise OSError(f"What was written differs from what was to be written in {name}; check the disk.")


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Say whether two arrays hold the same bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.flags.f_contiguous and other.flags.f_contiguous:
        one, other = one.T, other.T
    return all(np.array_equal(_bits(a), _bits(b)) for a, b in zip(pieces(one), pieces(other), strict=True))


def _bits(piece: np.ndarray) -> np.ndarray:
    flat = piece.reshape(-1).view(np.uint8)
    return flat.view(np.uint64) if flat.size % 8 == 0 and flat.flags.aligned else flat
