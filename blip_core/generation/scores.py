"""What the steps of `blip_core.generation.logits` compute, on float32 scores (vocabulary,) of one row, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BLOCK = 128


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (..., N) of logits or log-probabilities, float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
    return result


def penalise_repetition(scores: np.ndarray, tokens: Sequence[int], penalty: float) -> None:
    """Make tokens that occurred less likely: positive scores are divided by `penalty`, negative ones multiplied."""
    seen = np.unique(tokens)
    values = scores[seen]
    scores[seen] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))


def ban_repeated_ngrams(scores: np.ndarray, tokens: Sequence[int], size: int) -> None:
    """Ban each token that would complete an n-gram of `size` tokens a second time."""
    start = list(tokens[len(tokens) - size + 1 :])
    for i in range(len(tokens) - size + 1):
        if tokens[i : i + size - 1] == start:
            scores[tokens[i + size - 1]] = -np.inf


def ban_words(scores: np.ndarray, tokens: Sequence[int], words: Sequence[Sequence[int]]) -> None:
    """Ban each token that would complete one of `words`."""
    for *start, last in words:
        # As in transformers, a word of several tokens is not banned where it would be the whole text.
        if not start or (len(tokens) > len(start) and list(tokens[-len(start) :]) == start):
            scores[last] = -np.inf


def keep_top_k(scores: np.ndarray, k: int) -> None:
    """Ban what scores less than the k-th best token; tokens that tie with it stay."""
    if k < scores.size:
        scores[scores < kth_largest(scores, k)] = -np.inf


def keep_top_p(scores: np.ndarray, p: float, least_kept: int) -> None:
    """Ban all but the smallest set of tokens with probability `p` together, and at least the `least_kept` best."""
    weights = softmax(scores)
    # Tokens this rare have less than 1 - p together, wherever they stand: leaving them out makes sorting cheap.
    ids = np.flatnonzero(weights > (1 - p) / weights.size)
    if ids.size < least_kept:
        ids = np.arange(weights.size)
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    before = np.cumsum(weights[ids]) - weights[ids]
    kept = ids[(before < p) | (np.arange(ids.size) < least_kept)]
    values = scores[kept]
    scores.fill(-np.inf)
    scores[kept] = values


def keep_min_p(scores: np.ndarray, p: float, least_kept: int) -> None:
    """Ban what has less than `p` times the probability of the best token, but for the `least_kept` best."""
    weights = softmax(scores)
    removed = weights < p * weights.max()
    removed[np.argsort(-scores, kind="stable")[:least_kept]] = False
    scores[removed] = -np.inf


def keep_typical(scores: np.ndarray, p: float, least_kept: int) -> None:
    """Ban all but the tokens whose surprise is nearest to the entropy, with probability `p` together.

    The `least_kept` nearest are kept in any case. Source: arXiv 2202.00666.
    """
    weights = softmax(scores)
    with np.errstate(divide="ignore"):
        distance = np.abs(-np.log(weights) - entropy(scores))
    order = np.argsort(distance, kind="stable")
    last = min(int((np.cumsum(weights[order]) < p).sum()), order.size - 1)
    removed = distance > distance[order[last]]
    removed[order[:least_kept]] = False
    scores[removed] = -np.inf


def keep_above(scores: np.ndarray, least: float, least_kept: int) -> None:
    """Ban what has less than the probability `least`, but for the `least_kept` best."""
    removed = softmax(scores) < least
    scores[removed & (scores < kth_largest(scores, min(least_kept, scores.size)))] = -np.inf


def entropy(scores: np.ndarray) -> float:
    """Return the entropy of the distribution softmax(`scores`), in nats."""
    weights = softmax(scores)
    weights = weights[weights > 0]
    return float(-(weights * np.log(weights)).sum())


def keep_tokens(scores: np.ndarray, tokens: Sequence[int]) -> None:
    """Ban all tokens but these."""
    values = scores[list(tokens)]
    scores.fill(-np.inf)
    scores[list(tokens)] = values


def force(scores: np.ndarray, tokens: Sequence[int], now: bool) -> None:
    """Leave these tokens alone, at 0, if `now`."""
    if now:
        scores.fill(-np.inf)
        scores[list(tokens)] = 0


def ban(scores: np.ndarray, tokens: Sequence[int]) -> None:
    """Ban these tokens."""
    scores[list(tokens)] = -np.inf


def add_biases(scores: np.ndarray, tokens: Sequence[int], pairs: Sequence[Sequence[Any]]) -> None:
    """Add each bias to the last token of its sequence where the text ends with the others."""
    bias = np.zeros_like(scores)
    for (*start, last), value in sorted(pairs, key=lambda pair: len(pair[0]) > 1):
        # As in transformers, a sequence is left out where it would be longer than the text so far.
        if not start:
            bias[last] = value
        elif len(tokens) > len(start) and list(tokens[-len(start) :]) == start:
            bias[last] += value
    scores += bias


def as_list(ids: int | list[int] | None) -> list[int]:
    """Return one id, several or none as a list."""
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def kth_largest(values: np.ndarray, k: int) -> np.float32:
    """Return the k-th largest of float32 (size,) `values`, k at most their number.

    The k-th largest of the maxima of blocks is a lower bound found in one pass; few values reach it.
    """
    maxima = values[: values.size // BLOCK * BLOCK].reshape(-1, BLOCK).max(axis=1)
    if maxima.size >= k:
        values = values[values >= np.partition(maxima, -k)[-k]]
    return np.float32(np.partition(values, -k)[-k])


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return int64 (up to k,) indices of the largest finite `values`, best first; ties go to the lower index."""
    ids = np.flatnonzero(values >= kth_largest(values, min(k, values.size)))
    ids = ids[np.isfinite(values[ids])]
    best: np.ndarray = ids[np.argsort(-values[ids], kind="stable")[:k]]
    return best


def draw(scores: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
    """Draw int64 (up to len(uniforms),) distinct indices with the probabilities softmax(`scores`), in order.

    Each uniform in [0, 1) is looked up in the cumulative distribution (float64, in the order of the vocabulary) of the
    indices that are left. Returns fewer where fewer have a probability.
    """
    ids = np.flatnonzero(np.isfinite(scores))
    if not ids.size:
        return ids
    weights = np.exp(scores[ids].astype(np.float64) - scores[ids].max())
    chosen: list[int] = []
    for uniform in uniforms:
        cumulative = np.cumsum(weights)
        if cumulative[-1] == 0:
            break
        chosen.append(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")))
        weights[chosen[-1]] = 0
    return ids[chosen]
