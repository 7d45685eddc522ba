"""Features divided into cells of similar ones by k-means of FAISS, so that few of very many need be compared."""

from __future__ import annotations

from typing import Any

import numpy as np

AUTO, EXACT, CELLS = COMPARE = ("auto", "exact", "cells")
"""What features are compared with: all of them or those in cells near them; "auto" is all up to a number."""
EACH = 64
"""Features for each cell that k-means learns from."""
ROUNDS = 10
"""Rounds of k-means."""
CHUNK = 2**14


def import_faiss(what: str) -> Any:
    """Return the module `faiss`. Raises `ValueError` where it is not installed, saying `what` needs it."""
    try:
        import faiss
    except ImportError:
        raise ValueError(
            f'{what} needs FAISS, which is not installed: pip install "blip-duo[faiss]", or use --compare exact.'
        ) from None
    return faiss


def in_cells(compare: str, count: int, most: int) -> bool:
    """Say whether to compare in cells, where "auto" stands for it beyond `most` features."""
    return compare == CELLS or (compare == AUTO and count > most)


def find_cells(features: np.ndarray, what: str) -> np.ndarray:
    """Find the middles of cells, four times as many as the square root of the number of features.

    They follow from the features as a set: their order changes nothing.

    Args:
        features: (N, F); rows of zeros stand for nothing.
        what: What needs it, for the error without FAISS.

    Returns:
        L2-normalised float32 (cells, F).

    Raises:
        ValueError: Where FAISS is not installed.
    """
    faiss = import_faiss(what)
    cells = max(1, int(4 * len(features) ** 0.5))
    sample = _sample(features, cells * EACH)
    cells = min(cells, len(sample))
    settings = {"niter": ROUNDS, "seed": 1, "spherical": True, "min_points_per_centroid": 1}
    means = faiss.Kmeans(sample.shape[1], cells, max_points_per_centroid=EACH, **settings)
    means.train(sample)
    return normalised(means.centroids)


def nearest_cells(features: np.ndarray, middles: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` cells that are nearest to each feature, int32 (N, count), the nearest first."""
    count = min(count, len(middles))
    found = np.empty((len(features), count), np.int32)
    for start in range(0, len(features), CHUNK):
        similar = features[start : start + CHUNK] @ middles.T
        best = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similar, best, 1), axis=1, kind="stable")
        found[start : start + CHUNK] = np.take_along_axis(best, order, 1)
    return found


def normalised(rows: np.ndarray) -> np.ndarray:
    """Return rows as float32 of length 1; rows of zeros stay zero."""
    rows = np.array(rows, np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return rows


def _sample(features: np.ndarray, count: int) -> np.ndarray:
    """Some of the features, L2-normalised, chosen and ordered by hashes of their values."""
    weights = np.random.default_rng(1).integers(1, 2**63, features.shape[1], np.uint64) | np.uint64(1)
    hashes = np.zeros(len(features), np.uint64)
    for start in range(0, len(features), CHUNK):
        part = np.ascontiguousarray(features[start : start + CHUNK], np.float32).view(np.uint32).astype(np.uint64)
        mixed = (part * weights).sum(axis=1, dtype=np.uint64)
        mixed ^= mixed >> np.uint64(29)
        hashes[start : start + CHUNK] = np.where(part.any(axis=1), mixed * np.uint64(0x9E3779B97F4A7C15), 2**64 - 1)
    order = np.argsort(hashes, kind="stable")[:count]
    sample = normalised(features[order])
    return sample[sample.any(axis=1)]
