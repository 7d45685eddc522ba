"""Thresholds of CapFilt for each source of captions, learned from a small sample whose matches people have labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.capfilt.cap_filter import SYNTHETIC, WEB, CapFilter
from blip_core.datasets import Dataset, clean_caption
from blip_core.files import read_json, write_json
from blip_core.jobs.read_ahead import in_one_line, read_batches

LEAST = 3
"""The least number of matches, and of others, of a source; with fewer a threshold says nothing."""
NAME = "calibration.json"
Thresholds = Mapping[str, float]
"""The least score of a caption that is kept, by its source."""


@dataclass(frozen=True)
class Curve:
    """What each threshold would keep of the labelled captions of a source.

    Attributes:
        threshold: The one that is chosen.
        precision: The share of matches among what it keeps.
        recall: The share of all matches that it keeps.
        pairs: How many captions were labelled.
        matches: How many of them match.
        points: (threshold, precision, recall) for every score that occurs, from the highest.
    """

    threshold: float
    precision: float
    recall: float
    pairs: int
    matches: int
    points: list[tuple[float, float, float]]


def choose_threshold(source: str, scores: Sequence[float], labels: Sequence[int], precision: float | None) -> Curve:
    """Choose the threshold of the best F1, the harmonic mean of precision and recall, or of a precision.

    Args:
        source: The source of the captions, for messages.
        scores: The filter's probabilities of a match.
        labels: 1 where people see a match, else 0.
        precision: Choose the lowest threshold with at least this precision instead.

    Raises:
        ValueError: For too few labels, and for a precision that no threshold has.
    """
    found, right = np.array(scores), np.array(labels)
    if min(right.sum(), (right == 0).sum()) < LEAST:
        raise ValueError(
            f"The sample has {right.sum()} matches and {(right == 0).sum()} others of {source} captions; label at "
            f"least {LEAST} of each."
        )
    thresholds = np.unique(found)[::-1]
    kept = (found >= thresholds[:, None]).sum(axis=1)
    good = (found >= thresholds[:, None])[:, right == 1].sum(axis=1)
    precisions, recalls = good / kept, good / right.sum()
    if precision is None:
        chosen = int(np.argmax(2 * precisions * recalls / np.maximum(precisions + recalls, 1e-12)))
    elif (precisions >= precision).any():
        chosen = int(np.flatnonzero(precisions >= precision)[-1])
    else:
        raise ValueError(
            f"No threshold keeps {source} captions with a precision of {precision:g}: the most that the sample gives "
            f"is {precisions.max():.3f}; ask for less, or label more."
        )
    points = list(zip(thresholds.tolist(), precisions.tolist(), recalls.tolist(), strict=True))
    return Curve(*points[chosen], len(found), int(right.sum()), points)


def calibrate(
    models: CapFilter, sample: Dataset, precision: float | None, batch_size: int, readers: int
) -> dict[str, Curve]:
    """Score the labelled captions of a sample and choose a threshold for each source that it has.

    Args:
        models: The filter is asked.
        sample: Opened for "match"; examples without a label are passed over, `group` is the source.
        precision: As for `choose_threshold`.
        batch_size: Pictures at a time.
        readers: Threads that read pictures.

    Raises:
        ValueError: As `choose_threshold`, for another source than "web" and "synthetic", for a picture that cannot be
            read, and for a sample without labels.
    """
    labelled = [example for example in sample if example.label is not None]
    if not labelled:
        raise ValueError("The sample to calibrate by has no label; give each caption one, 'match' or 'no match'.")
    scores: dict[str, list[float]] = {}
    labels: dict[str, list[int]] = {}
    for batch in read_batches(labelled, batch_size, lambda example: models.read(example.images[0]), readers):
        for example, picture in batch:
            if isinstance(picture, Exception):
                raise ValueError(f"{example.key} of the sample to calibrate by: {in_one_line(picture)}")
        pixels = [picture for _, picture in batch if not isinstance(picture, Exception)]
        found = models.scores(pixels, [clean_caption(example.texts[0]) for example, _ in batch])
        for (example, _), score in zip(batch, found, strict=True):
            source = example.group or WEB
            if source not in (WEB, SYNTHETIC):
                raise ValueError(f"{example.key}: source must be {WEB!r} or {SYNTHETIC!r}, got {source!r:.80}.")
            scores.setdefault(source, []).append(score)
            labels.setdefault(source, []).append(int(example.label or 0))
    return {source: choose_threshold(source, scores[source], labels[source], precision) for source in sorted(scores)}


def sample_fingerprint(sample: Dataset) -> str:
    """Return a hash of the labelled captions and the names of their pictures."""
    rows = [(example.images[0].name, example.texts, example.label, example.group) for example in sample]
    return hashlib.blake2b(repr(rows).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_curves(folder: Path, curves: Mapping[str, Curve]) -> None:
    """Write the curves into the output folder."""
    write_json(folder / NAME, {source: asdict(curve) for source, curve in curves.items()})


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read the curves in an output folder. Raises `ValueError` where they are damaged."""
    try:
        rows: dict[str, Any] = read_json(folder / NAME)
        return {source: Curve(**row) for source, row in rows.items()}
    except TypeError as error:
        raise ValueError(f"{folder / NAME} is damaged ({error}); remove it and run again to rebuild it.") from None
