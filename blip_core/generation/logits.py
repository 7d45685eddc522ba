"""Steps that change the scores of the next token before one is chosen: penalties, bans, temperature, top-k, top-p.

Scores are float32 (vocabulary,), the logits or log-probabilities of one row; every step changes them in place and
bans a token with -inf. Meanings and order are those of transformers 4.57.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from blip_core.generation.options import GenerationConfig

BLOCK = 128

Step = Callable[[np.ndarray, Sequence[int], int], None]
"""Called with (scores, tokens, shortest): changes the scores of the token after `tokens`, prompt included."""


class LogitsProcessor:
    """The steps that one configuration asks for, in their order. `active` is False where there is none."""

    def __init__(self, config: GenerationConfig, vocab_size: int):
        bad, forced = (
            [token for word in words or [] for token in word]
            for words in (config.bad_words_ids, config.force_words_ids)
        )
        for name, ids in (("eos_token_id", config.end_ids), ("bad_words_ids", bad), ("force_words_ids", forced)):
            if ids and max(ids) >= vocab_size:
                raise ValueError(f"{name} holds {max(ids)}, but the vocabulary has {vocab_size} tokens.")
        self.steps = [step for make in STEPS.values() if (step := make(config))]
        self.active = bool(self.steps)

    def __call__(self, scores: np.ndarray, tokens: Sequence[int], shortest: int) -> None:
        """Apply the steps to `scores` (vocabulary,) in place."""
        for step in self.steps:
            step(scores, tokens, shortest)


def _repetition_penalty(config: GenerationConfig) -> Step | None:
    penalty = config.repetition_penalty
    return None if penalty == 1 else lambda scores, tokens, _: penalise_repetition(scores, tokens, penalty)


def _no_repeat_ngram_size(config: GenerationConfig) -> Step | None:
    size = config.no_repeat_ngram_size
    return (lambda scores, tokens, _: ban_repeated_ngrams(scores, tokens, size)) if size else None


def _bad_words_ids(config: GenerationConfig) -> Step | None:
    # An end token cannot be a bad word by itself: a text could not end.
    words = [list(word) for word in config.bad_words_ids or [] if len(word) > 1 or word[0] not in config.end_ids]
    return (lambda scores, tokens, _: ban_words(scores, tokens, words)) if words else None


def _min_length(config: GenerationConfig) -> Step | None:
    ends = config.end_ids

    def ban_ends(scores: np.ndarray, tokens: Sequence[int], shortest: int) -> None:
        if len(tokens) < shortest:
            scores[ends] = -np.inf

    return ban_ends if ends and (config.min_length or config.min_new_tokens) else None


def _temperature(config: GenerationConfig) -> Step | None:
    temperature = np.float32(config.temperature)

    def divide(scores: np.ndarray, tokens: Sequence[int], shortest: int) -> None:
        scores /= temperature

    return divide if config.do_sample and config.temperature != 1 else None


def _top_k(config: GenerationConfig) -> Step | None:
    k = max(config.top_k, _least_kept(config))
    return (lambda scores, *_: keep_top_k(scores, k)) if config.do_sample and config.top_k else None


def _top_p(config: GenerationConfig) -> Step | None:
    p, least = config.top_p, _least_kept(config)
    return (lambda scores, *_: keep_top_p(scores, p, least)) if config.do_sample and p < 1 else None


def _least_kept(config: GenerationConfig) -> int:
    """Tokens that top-k and top-p keep at least: beam sampling must be able to continue where a beam ends."""
    return 1 if config.num_beams == 1 else len(config.end_ids) + 1 if config.end_ids else 2


STEPS: dict[str, Callable[[GenerationConfig], Step | None]] = {
    "repetition_penalty": _repetition_penalty,
    "no_repeat_ngram_size": _no_repeat_ngram_size,
    "bad_words_ids": _bad_words_ids,
    "min_length": _min_length,
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _top_p,
}
"""By option, in the order in which they are applied: what makes its step, or None where it is off."""


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
