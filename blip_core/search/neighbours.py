"""Find the nearest features (ITC), and re-rank the best by matching them with the text itself (ITM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip_core.generation.scores import softmax
from blip_core.inference.matcher import Matcher
from blip_core.search.feature_index import Entry
from blip_core.search.index_cells import IndexCells

CHUNK = 2**14
"""Rows that are compared at once: with 256 values each, 16 MB of the mapped file."""


@dataclass
class Hit:
    """A picture or video that was found, and its scores."""

    name: str
    itc: float
    """The cosine similarity of the features, -1 to 1."""
    logits: tuple[float, float] | None = None
    """Those of ITM after re-ranking: for "they differ" and "they match"."""

    @property
    def itm_logit(self) -> float | None:
        """ITM's logit of a match."""
        return None if self.logits is None else self.logits[1]

    @property
    def itm(self) -> float | None:
        """The probability of a match, 0 to 1, by ITM."""
        return None if self.logits is None else float(softmax(np.array(self.logits))[1])

    @property
    def score(self) -> float:
        """ITM's logit of a match plus the ITC similarity; without ITM the similarity alone.

        Source: the original's evaluation of retrieval.
        """
        return self.itc + (self.itm_logit or 0.0)


def nearest(
    queries: np.ndarray, features: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of `features` with the greatest cosine similarity to each query, best first.

    Args:
        queries: L2-normalised float32 (Q, F).
        features: L2-normalised float32 (N, F); may be a mapped file of any size, which is read in chunks.
        k: How many rows to find; all where there are fewer.
        rows: The rows to search, in increasing order; None for all.

    Returns:
        Row indices int64 (Q, k) and similarities float32 (Q, k); of equal similarities the lower row comes first.

    Raises:
        ValueError: For features that are not normalised, as those of a damaged file.
    """
    count = len(features) if rows is None else len(rows)
    best = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
    for start in range(0, count, CHUNK):
        chunk = np.arange(start, min(start + CHUNK, count)) if rows is None else rows[start : start + CHUNK]
        first, end = int(chunk[0]), int(chunk[-1]) + 1
        # Rows without a gap are a view of the file; others are copied.
        part = features[first:end] if end - first == len(chunk) else features[chunk]
        with np.errstate(invalid="ignore", over="ignore"):  # the next lines refuse such values
            similarities = queries @ part.T  # (Q, rows of this chunk)
        if not np.abs(similarities).max(initial=0) <= 1.01:  # also true of NaN
            raise ValueError("The features are not normalised: the index is damaged, or no index of a matcher.")
        best = [_better(*pair, chunk, k) for pair in zip(best, similarities, strict=True)]
    return np.array([found for _, found in best]), np.array([values for values, _ in best])


def _better(
    best: tuple[np.ndarray, np.ndarray], similarities: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the best similarities and rows so far with those of another chunk."""
    values, found = best
    new = similarities > values[-1] if len(values) == k else slice(None)  # most are not among the best
    values, found = np.concatenate([values, similarities[new]]), np.concatenate([found, rows[new]])
    order = np.argsort(-values, kind="stable")[:k]
    return values[order], found[order]


def find(
    queries: np.ndarray, features: np.ndarray, entries: Mapping[str, Entry], k: int, cells: IndexCells | None = None
) -> list[list[Hit]]:
    """Find the pictures of an index that are nearest to each query.

    Args:
        queries: L2-normalised float32 (Q, F).
        features: Those of a `FeatureIndex`.
        entries: The entries of the index to search.
        k: How many pictures to find.
        cells: Compare the queries with the pictures in cells near them alone.

    Returns:
        The hits of each query, best first.
    """
    names = sorted(entries, key=lambda name: entries[name].row)
    rows = np.array([entries[name].row for name in names], np.int64)
    among = rows if cells is None else cells.near(queries, rows, k)
    found, similarities = nearest(queries, features, k, among)
    places = np.searchsorted(rows, found)
    return [
        [Hit(names[place], float(similarity)) for place, similarity in zip(*pair, strict=True)]
        for pair in zip(places, similarities, strict=True)
    ]


def candidates(hits: Sequence[Sequence[Hit]], k: int) -> dict[str, list[int]]:
    """Return what `rerank` has to encode: the names among the `k` best of any query -> indices of those queries."""
    wanted: dict[str, list[int]] = {}
    for index, found in enumerate(hits):
        for hit in found[:k]:
            wanted.setdefault(hit.name, []).append(index)
    return wanted


def rerank(
    matcher: Matcher, texts: Sequence[str], hits: Sequence[list[Hit]], k: int, embeds: Iterable[tuple[str, np.ndarray]]
) -> Iterator[str]:
    """Match the best hits of each text by ITM and order them by score, in place; matched ones come first.

    Args:
        matcher: The matcher.
        texts: Texts.
        hits: The hits of each text.
        k: How many of each to match.
        embeds: The names in `candidates(hits, k)` with their image embeddings (`Matcher.item_states`), each once, in
            any order. Pictures that are left out keep their order behind the matched ones.

    Yields:
        The name of each picture once it is matched with all its texts.
    """
    wanted = candidates(hits, k)
    by_name = [{hit.name: hit for hit in found} for found in hits]
    for name, states in embeds:
        indices = wanted[name]
        logits = matcher.match(states, [texts[index] for index in indices])
        for index, (differ, match) in zip(indices, logits.tolist(), strict=True):
            by_name[index][name].logits = (differ, match)
        yield name
    for found in hits:
        found.sort(key=lambda hit: (hit.logits is None, -hit.score))
