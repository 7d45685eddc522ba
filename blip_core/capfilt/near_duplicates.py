"""Near-duplicates: pictures that look like one that came before, by features of contrastive training."""

from __future__ import annotations

import numpy as np

CHUNK = 2048
"""Pictures that are compared with as many others at once, in 16 MB."""
EDGE = 0.5e-4
"""Cosines are compared as if rounded to four digits: below, frameworks and batches of other sizes differ."""


def find_near(features: np.ndarray, limit: float) -> dict[int, tuple[int, float]]:
    """For each row that does not stay, the first of those that do which it is like, and their cosine similarity.

    `features` is float16 (pictures, F) in the order of the input; a row of zeros is of no picture, and never like
    another. A row stays unless its cosine similarity with one that stays before it is at least `limit`. Takes time that
    grows with the square of what stays, and little memory beside the features.
    """
    found: dict[int, tuple[int, float]] = {}
    stay = np.empty(len(features), np.int64)
    count = 0
    for start in range(0, len(features), CHUNK):
        rows = _normalize(features[start : start + CHUNK])
        left = np.asarray(rows.any(axis=1))
        for at in range(0, count, CHUNK):
            block = stay[at : min(at + CHUNK, count)]
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
        stay[count : count + len(new)] = new
        count += len(new)
    return found


def _normalize(rows: np.ndarray) -> np.ndarray:
    """Rows as float32 of length 1, which float16 has rounded; those of zeros stay."""
    rows = rows.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return rows
