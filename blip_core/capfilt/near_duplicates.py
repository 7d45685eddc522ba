"""Find near-duplicates: pictures that look like an earlier one, by features of contrastive training."""

from __future__ import annotations

import numpy as np

CHUNK = 2048
"""Pictures that are compared with as many others at once, in 16 MB."""
EDGE = 0.5e-4
"""Half of the fourth decimal place, to which cosines are compared; beyond it, frameworks and batch sizes differ."""


def find_near(features: np.ndarray, limit: float) -> dict[int, tuple[int, float]]:
    """Return for each dropped row the first kept row that it resembles, and their cosine similarity.

    `features` is float16 (pictures, F) in the order of the input; a row of zeros stands for no picture and resembles
    none. A row is kept unless its cosine similarity with an earlier kept row is at least `limit`. The time grows with
    the square of the number of kept rows; memory beside the features is small.
    """
    found: dict[int, tuple[int, float]] = {}
    kept = np.empty(len(features), np.int64)
    count = 0
    for start in range(0, len(features), CHUNK):
        rows = _normalize(features[start : start + CHUNK])
        left = np.asarray(rows.any(axis=1))
        for at in range(0, count, CHUNK):
            block = kept[at : min(at + CHUNK, count)]
            those = np.flatnonzero(left)
            cosines = rows[those] @ _normalize(features[block]).T  # (those, block)
            like = cosines >= limit - EDGE
            for row in np.flatnonzero(like.any(axis=1)):
                first = like[row].argmax()
                found[start + int(those[row])] = int(block[first]), float(cosines[row, first])
                left[those[row]] = False
        cosines = rows @ rows.T
        stays = np.zeros(len(rows), bool)
        for row in np.flatnonzero(left):
            like = stays & (cosines[row] >= limit - EDGE)
            if like.any():
                found[start + int(row)] = start + int(like.argmax()), float(cosines[row, like.argmax()])
            else:
                stays[row] = True
        new = start + np.flatnonzero(stays)
        kept[count : count + len(new)] = new
        count += len(new)
    return found


def _normalize(rows: np.ndarray) -> np.ndarray:
    """Return rows as float32 of length 1; rows of zeros stay zero."""
    rows = rows.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return rows
