"""Search: the nearest features first (ITC), then the best of them matched with the text itself (ITM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip_core.inference.answer_tries import probabilities
from blip_core.inference.matcher import Matcher
from blip_core.search.feature_index import Entry

CHUNK = 2**14
"""Rows that are compared at once: with 256 values each, 16 MB of the mapped file."""


@dataclass
class Hit:
    """A picture or video that was found, and how well it fits."""

    name: str
    itc: float
    """The cosine similarity of the features, -1 to 1."""
    logits: tuple[float, float] | None = None
    """Those of ITM, where it was asked: that picture and text differ, and that they match."""

    @property
    def itm_logit(self) -> float | None:
        """ITM's logit of a match."""
        return None if self.logits is None else self.logits[1]

    @property
    def itm(self) -> float | None:
        """The probability of a match, 0 to 1, by ITM."""
        return None if self.logits is None else float(probabilities(np.array(self.logits))[1])

    @property
    def score(self) -> float:
        """ITM's logit of a match plus the ITC similarity; that alone where ITM was not asked.

        Source: the original's evaluation of retrieval.
        """
        return self.itc + (self.itm_logit or 0.0)


def nearest(
    queries: np.ndarray, features: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows of `features` with the greatest cosine similarity to each query, best first.

    `queries` (Q, F) and `features` (N, F) are L2-normalised float32; `features` may be a mapped file of any size, of
    which some megabytes at a time are looked at. `rows`, increasing numbers, are those that count, all unless given.
    Returns row numbers (Q, k) and similarities (Q, k); fewer than k where there are not as many rows. Of equal ones
    the first comes first.
    Raises `ValueError` for features that are not normalised, as those of a damaged file.
    """
    count = len(features) if rows is None else len(rows)
    best = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
    for start in range(0, count, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, count)) if rows is None else rows[start : start + CHUNK]
        first, end = int(numbers[0]), int(numbers[-1]) + 1
        # Rows without a gap are a view of the file; others are copied, these few.
        part = features[first:end] if end - first == len(numbers) else features[numbers]
        with np.errstate(invalid="ignore", over="ignore"):  # of values that the next lines refuse
            similarities = queries @ part.T  # (Q, rows of this chunk)
        if not np.abs(similarities).max(initial=0) <= 1.01:  # so that NaN is none of them either
            raise ValueError("The features are not normalised: the index is damaged, or of something else.")
        best = [_better(*pair, numbers, k) for pair in zip(best, similarities, strict=True)]
    return np.array([found for _, found in best]), np.array([values for values, _ in best])


def _better(
    best: tuple[np.ndarray, np.ndarray], similarities: np.ndarray, numbers: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best similarities, and their rows, of those so far and of some more."""
    values, found = best
    new = similarities > values[-1] if len(values) == k else slice(None)  # most are not among the best
    values, found = np.concatenate([values, similarities[new]]), np.concatenate([found, numbers[new]])
    order = np.argsort(-values, kind="stable")[:k]
    return values[order], found[order]


def find(queries: np.ndarray, features: np.ndarray, entries: Mapping[str, Entry], k: int) -> list[list[Hit]]:
    """The `k` pictures of an index that are nearest to each query, best first, by `nearest`.

    `entries` are those of `FeatureIndex.entries()` that shall be searched, `features` its `features`.
    """
    names = sorted(entries, key=lambda name: entries[name].row)
    rows = np.array([entries[name].row for name in names], np.int64)
    found, similarities = nearest(queries, features, k, rows)
    places = np.searchsorted(rows, found)
    return [
        [Hit(names[place], float(similarity)) for place, similarity in zip(*pair, strict=True)]
        for pair in zip(places, similarities, strict=True)
    ]


def candidates(hits: Sequence[Sequence[Hit]], k: int) -> dict[str, list[int]]:
    """The pictures among the `k` best of any query, and the numbers of those queries: what `rerank` has to encode."""
    wanted: dict[str, list[int]] = {}
    for number, found in enumerate(hits):
        for hit in found[:k]:
            wanted.setdefault(hit.name, []).append(number)
    return wanted


def rerank(
    matcher: Matcher, texts: Sequence[str], hits: Sequence[list[Hit]], k: int, embeds: Iterable[tuple[str, np.ndarray]]
) -> Iterator[str]:
    """Match the `k` best of each text by ITM, put them in the order of their scores, and yield each picture's name.

    `hits` are those of `texts`, one list each, and are changed in place: what was matched comes first. `embeds` gives
    the pictures of `candidates(hits, k)` with their image embeddings (`Matcher.item_states`), in any order, each once
    however many texts it is matched with; one that is left out keeps its place behind those that were matched.
    """
    wanted = candidates(hits, k)
    by_name = [{hit.name: hit for hit in found} for found in hits]
    for name, states in embeds:
        numbers = wanted[name]
        logits = matcher.match(states, [texts[number] for number in numbers])
        for number, (differ, match) in zip(numbers, logits.tolist(), strict=True):
            by_name[number][name].logits = (differ, match)
        yield name
    for found in hits:
        found.sort(key=lambda hit: (hit.logits is None, -hit.score))
