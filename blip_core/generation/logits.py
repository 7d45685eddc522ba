"""What changes the scores of the next token before one is chosen: penalties, bans, temperature, top-k and top-p.

Scores are float32 (vocabulary,), the logits or log-probabilities of one row; every rule works on them in place and
bans a token by -inf. Meanings and order are those of transformers 4.57.6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_core.generation.options import GenerationConfig

BLOCK = 128


class LogitsProcessor:
    """The rules that one configuration asks for, in their order. `active` is False where there is none."""

    def __init__(self, config: GenerationConfig, vocab_size: int):
        self.config = config
        self.ends = config.end_ids
        # An end token cannot be a bad word by itself: a text could not end.
        self.words = [list(word) for word in config.bad_words_ids or [] if len(word) > 1 or word[0] not in self.ends]
        for name, ids in (("eos_token_id", self.ends), ("bad_words_ids", [i for word in self.words for i in word])):
            if ids and max(ids) >= vocab_size:
                raise ValueError(f"{name} holds {max(ids)}, but the vocabulary has {vocab_size} tokens.")
        # Beam sampling must be able to go on where a beam ends, so it keeps more than the end tokens.
        self.least_kept = 1 if config.num_beams == 1 else len(self.ends) + 1 if self.ends else 2
        self.active = bool(
            config.repetition_penalty != 1
            or config.no_repeat_ngram_size
            or self.words
            or (self.ends and (config.min_length or config.min_new_tokens))
            or (config.do_sample and (config.temperature != 1 or config.top_k or config.top_p < 1))
        )

    def __call__(self, scores: np.ndarray, tokens: Sequence[int], shortest: int) -> None:
        """Change the scores of the token that follows `tokens` (prompt included) in a text of `shortest` or more."""
        config = self.config
        if config.repetition_penalty != 1:
            penalise_repetition(scores, tokens, config.repetition_penalty)
        if config.no_repeat_ngram_size:
            ban_repeated_ngrams(scores, tokens, config.no_repeat_ngram_size)
        ban_words(scores, tokens, self.words)
        if len(tokens) < shortest:
            scores[self.ends] = -np.inf
        if config.do_sample:
            if config.temperature != 1:
                scores /= np.float32(config.temperature)
            if config.top_k:
                keep_top_k(scores, max(config.top_k, self.least_kept))
            if config.top_p < 1:
                keep_top_p(scores, config.top_p, self.least_kept)


def penalise_repetition(scores: np.ndarray, tokens: Sequence[int], penalty: float) -> None:
    """Make every token that occurred less likely: a positive score is divided by `penalty`, a negative multiplied."""
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
        # As in transformers, a word of several tokens is not looked for where it would be the whole text.
        if not start or (len(tokens) > len(start) and list(tokens[-len(start) :]) == start):
            scores[last] = -np.inf


def keep_top_k(scores: np.ndarray, k: int) -> None:
    """Ban what scores less than the k-th best token; tokens that tie with it stay."""
    if k < scores.size:
        scores[scores < kth_largest(scores, k)] = -np.inf


def keep_top_p(scores: np.ndarray, p: float, least_kept: int) -> None:
    """Ban all but the smallest set of tokens with probability `p` together, and at least the `least_kept` best."""
    weights = np.exp(scores.astype(np.float64) - scores.max())
    weights /= weights.sum()
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
    return np.partition(values, -k)[-k]


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return int64 (up to k,) indices of the largest finite `values`, best first; ties go to the lower index."""
    ids = np.flatnonzero(values >= kth_largest(values, min(k, values.size)))
    ids = ids[np.isfinite(values[ids])]
    return ids[np.argsort(-values[ids], kind="stable")[:k]]


def draw(scores: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
    """Draw int64 (up to len(uniforms),) distinct indices with the probabilities softmax(`scores`), in order.

    Each uniform in [0, 1) is looked up in the cumulative distribution, float64, in the order of the vocabulary, of
    what has not been drawn yet. Fewer indices come back where fewer have a probability.
    """
    ids = np.flatnonzero(np.isfinite(scores))
    if not ids.size:
        return ids
    weights = np.exp(scores[ids].astype(np.float64) - scores[ids].max())
    drawn: list[int] = []
    for uniform in uniforms:
        cumulative = np.cumsum(weights)
        if cumulative[-1] == 0:
            break
        drawn.append(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")))
        weights[drawn[-1]] = 0
    return ids[drawn]
