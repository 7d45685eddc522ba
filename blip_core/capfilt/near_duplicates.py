"""Find near-duplicates: pictures that look like an earlier one, by features of contrastive training."""

from __future__ import annotations

import numpy as np

from blip_core.inference.cells import import_faiss, nearest_cells, normalised

CHUNK = 2048
"""Pictures that are compared with as many others at once, in 16 MB."""
EDGE = 0.5e-4
"""Half of the fourth decimal place, to which cosines are compared; beyond it, frameworks and batch sizes differ."""
PROBES = 16
"""Cells in which look-alikes of a picture are looked for."""
SLACK = 1e-5
"""How much more FAISS is asked for, as it adds in another order; what it finds is compared once more."""


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
        rows = normalised(features[start : start + CHUNK])
        left = np.asarray(rows.any(axis=1))
        for at in range(0, count, CHUNK):
            block = kept[at : min(at + CHUNK, count)]
            those = np.flatnonzero(left)
            cosines = rows[those] @ normalised(features[block]).T  # (those, block)
            like = cosines >= limit - EDGE
            for row in np.flatnonzero(like.any(axis=1)):
                first = like[row].argmax()
                found[start + int(those[row])] = int(block[first]), float(cosines[row, first])
                left[those[row]] = False
        cosines = rows @ rows.T
        new = start + _staying(left, cosines, cosines >= limit - EDGE, start, found)
        kept[count : count + len(new)] = new
        count += len(new)
    return found


def find_near_in_cells(features: np.ndarray, limit: float, middles: np.ndarray) -> dict[int, tuple[int, float]]:
    """Return what `find_near` does, but for look-alikes that lie in cells far from each other.

    An earlier row is compared with a later one if it lies in one of the `PROBES` cells that are nearest to that. Which
    rows are compared follows from their values alone. `middles` are those of `find_cells`.

    Raises:
        ValueError: Where FAISS is not installed.
    """
    faiss = import_faiss("Looking for near-duplicates in cells")
    width, probes = features.shape[1], min(PROBES, len(middles))
    cells = faiss.IndexFlatIP(width)
    cells.add(middles)
    index = faiss.IndexIVFFlat(cells, width, len(middles), faiss.METRIC_INNER_PRODUCT)
    index.train(middles)  # it has its cells already
    index.nprobe = probes
    found: dict[int, tuple[int, float]] = {}
    kept = np.empty(len(features), np.int64)
    count = 0
    for start in range(0, len(features), CHUNK):
        rows = normalised(features[start : start + CHUNK])
        left = np.asarray(rows.any(axis=1))
        those = np.flatnonzero(left)
        ends, _, hits = index.range_search(rows[those], limit - EDGE - SLACK)
        for at in np.flatnonzero(np.diff(ends)):
            row = those[at]
            others = kept[np.sort(hits[ends[at] : ends[at + 1]])]
            cosines = normalised(features[others]) @ rows[row]
            if (like := cosines >= limit - EDGE).any():
                first = like.argmax()
                found[start + int(row)] = int(others[first]), float(cosines[first])
                left[row] = False
        near = nearest_cells(rows, middles, probes)
        looked = np.zeros((len(rows), len(middles)), bool)
        np.put_along_axis(looked, near.astype(np.int64), True, 1)
        cosines = rows @ rows.T
        alike = (cosines >= limit - EDGE) & looked[:, near[:, 0]]
        new = _staying(left, cosines, alike, start, found)
        index.add(rows[new])
        kept[count : count + len(new)] = start + new
        count += len(new)
    return found


def _staying(
    left: np.ndarray, cosines: np.ndarray, alike: np.ndarray, start: int, found: dict[int, tuple[int, float]]
) -> np.ndarray:
    """Return the rows of a chunk that resemble none before them in it that stays, and add the others to `found`.

    `left` are those that resemble none of earlier chunks, `alike` says which rows of the chunk resemble which.
    """
    stays = np.zeros(len(left), bool)
    for row in np.flatnonzero(left):
        like = stays & alike[row]
        if like.any():
            first = like.argmax()
            found[start + int(row)] = start + int(first), float(cosines[row, first])
        else:
            stays[row] = True
    return np.flatnonzero(stays)
