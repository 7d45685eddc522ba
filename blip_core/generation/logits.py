"""Steps that change the scores of the next token before one is chosen: penalties, bans, temperature, top-k, top-p.

Scores are float32 (vocabulary,), the logits or log-probabilities of one row; every step changes them in place and
bans a token with -inf. Meanings and order are those of transformers 4.57.6.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip_core.generation.options import GenerationConfig
from blip_core.generation.scores import (
    add_biases,
    as_list,
    ban,
    ban_repeated_ngrams,
    ban_words,
    entropy,
    force,
    keep_above,
    keep_min_p,
    keep_tokens,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise_repetition,
    softmax,
)


@dataclass(frozen=True)
class Place:
    """Where a text stands as its next token is chosen: its tokens, prompt included, and its limits in tokens."""

    tokens: Sequence[int]
    prompt_length: int = 1
    shortest: int = 0
    longest: int = sys.maxsize
    item: int = 0


Step = Callable[[np.ndarray, Place], None]
"""Changes the scores of the token after a text."""
Allowed = Callable[[int, Sequence[int]], Sequence[int]]
"""Called with an item and its tokens, returns the tokens that may follow."""


class LogitsProcessor:
    """The steps that one configuration asks for: `rules`, then `filters`, each in order; between them stand hooks.

    `allowed` is the `prefix_allowed_tokens_fn` of a call.
    """

    def __init__(self, config: GenerationConfig, vocab_size: int, allowed: Allowed | None = None):
        for name, ids in _named_tokens(config).items():
            if ids and max(ids) >= vocab_size:
                raise ValueError(f"{name} holds {max(ids)}, but the vocabulary has {vocab_size} tokens.")
        self.rules = _made(RULES, config) + ([] if allowed is None else [_only(allowed)]) + _made(ENDINGS, config)
        self.filters = _made(FILTERS, config)


def _made(table: Mapping[str, Callable[[GenerationConfig], Step | None]], config: GenerationConfig) -> list[Step]:
    return [step for make in table.values() if (step := make(config))]


def _named_tokens(config: GenerationConfig) -> dict[str, list[int]]:
    """The tokens that options name."""
    return {
        "eos_token_id": config.end_ids,
        "bad_words_ids": [token for word in config.bad_words_ids or [] for token in word],
        "force_words_ids": [token for word in config.force_words_ids or [] for token in word],
        "sequence_bias": [token for ids, _ in config.sequence_bias or [] for token in ids],
        "suppress_tokens": config.suppress_tokens or [],
        "begin_suppress_tokens": config.begin_suppress_tokens or [],
        "forced_bos_token_id": as_list(config.forced_bos_token_id),
        "forced_eos_token_id": as_list(config.forced_eos_token_id),
    }


def _sequence_bias(config: GenerationConfig) -> Step | None:
    pairs = config.sequence_bias
    return None if pairs is None else lambda scores, place: add_biases(scores, place.tokens, pairs)


def _encoder_repetition_penalty(config: GenerationConfig) -> Step | None:
    penalty = 1 / config.encoder_repetition_penalty

    def favour_prompt(scores: np.ndarray, place: Place) -> None:
        penalise_repetition(scores, place.tokens[: place.prompt_length], penalty)

    return None if penalty == 1 else favour_prompt


def _repetition_penalty(config: GenerationConfig) -> Step | None:
    penalty = config.repetition_penalty
    return None if penalty == 1 else lambda scores, place: penalise_repetition(scores, place.tokens, penalty)


def _no_repeat_ngram_size(config: GenerationConfig) -> Step | None:
    size = config.no_repeat_ngram_size
    return (lambda scores, place: ban_repeated_ngrams(scores, place.tokens, size)) if size else None


def _bad_words_ids(config: GenerationConfig) -> Step | None:
    # An end token cannot be a bad word by itself: a text could not end.
    words = [list(word) for word in config.bad_words_ids or [] if len(word) > 1 or word[0] not in config.end_ids]
    return (lambda scores, place: ban_words(scores, place.tokens, words)) if words else None


def _min_length(config: GenerationConfig) -> Step | None:
    ends = config.end_ids

    def ban_ends(scores: np.ndarray, place: Place) -> None:
        if len(place.tokens) < place.shortest:
            scores[ends] = -np.inf

    return ban_ends if ends and (config.min_length or config.min_new_tokens) else None


def _only(allowed: Allowed) -> Step:
    return lambda scores, place: keep_tokens(scores, allowed(place.item, place.tokens))


def _forced_bos_token_id(config: GenerationConfig) -> Step | None:
    first = as_list(config.forced_bos_token_id)
    return (lambda scores, place: force(scores, first, len(place.tokens) == 1)) if first else None


def _forced_eos_token_id(config: GenerationConfig) -> Step | None:
    last = as_list(config.forced_eos_token_id)
    return (lambda scores, place: force(scores, last, len(place.tokens) == place.longest - 1)) if last else None


def _exponential_decay_length_penalty(config: GenerationConfig) -> Step | None:
    if config.exponential_decay_length_penalty is None:
        return None
    (start, factor), ends = config.exponential_decay_length_penalty, config.end_ids

    def favour_ends(scores: np.ndarray, place: Place) -> None:
        past = len(place.tokens) - place.prompt_length - start
        if past > 0:
            scores[ends] += np.abs(scores[ends]) * np.float32(factor**past - 1)

    return favour_ends


def _suppress_tokens(config: GenerationConfig) -> Step | None:
    tokens = config.suppress_tokens
    return (lambda scores, _: ban(scores, tokens)) if tokens else None


def _begin_suppress_tokens(config: GenerationConfig) -> Step | None:
    tokens, forced = config.begin_suppress_tokens, config.forced_bos_token_id is not None

    def ban_first(scores: np.ndarray, place: Place) -> None:
        first = place.prompt_length + (forced and place.prompt_length == 1)  # what is forced is not counted
        if tokens and len(place.tokens) == first:
            ban(scores, tokens)

    return ban_first if tokens else None


def _temperature(config: GenerationConfig) -> Step | None:
    temperature = np.float32(config.temperature)

    def divide(scores: np.ndarray, place: Place) -> None:
        scores /= temperature

    return divide if config.do_sample and config.temperature != 1 else None


def _top_k(config: GenerationConfig) -> Step | None:
    k = max(config.top_k, _least_kept(config))
    return (lambda scores, _: keep_top_k(scores, k)) if config.do_sample and config.top_k else None


def _top_p(config: GenerationConfig) -> Step | None:
    p, least = config.top_p, _least_kept(config)
    return (lambda scores, _: keep_top_p(scores, p, least)) if config.do_sample and p < 1 else None


def _min_p(config: GenerationConfig) -> Step | None:
    p, least = config.min_p, _least_kept(config)
    return (lambda scores, _: keep_min_p(scores, p, least)) if config.do_sample and p is not None else None


def _typical_p(config: GenerationConfig) -> Step | None:
    p, least = config.typical_p, _least_kept(config)
    return (lambda scores, _: keep_typical(scores, p, least)) if config.do_sample and p < 1 else None


def _epsilon_cutoff(config: GenerationConfig) -> Step | None:
    epsilon, least = config.epsilon_cutoff, _least_kept(config)
    return (lambda scores, _: keep_above(scores, epsilon, least)) if config.do_sample and epsilon else None


def _eta_cutoff(config: GenerationConfig) -> Step | None:
    epsilon, least = config.eta_cutoff, _least_kept(config)

    def keep(scores: np.ndarray, place: Place) -> None:
        keep_above(scores, min(epsilon, np.sqrt(epsilon) * np.exp(-entropy(scores))), least)

    return keep if config.do_sample and epsilon else None


def _renormalize_logits(config: GenerationConfig) -> Step | None:
    def normalise(scores: np.ndarray, place: Place) -> None:
        with np.errstate(divide="ignore"):
            scores[:] = np.log(softmax(scores))

    return normalise if config.renormalize_logits else None


def _least_kept(config: GenerationConfig) -> int:
    """Tokens that filters keep at least: beam sampling must be able to continue where a beam ends."""
    return 1 if config.num_beams == 1 else len(config.end_ids) + 1 if config.end_ids else 2


RULES: dict[str, Callable[[GenerationConfig], Step | None]] = {
    "sequence_bias": _sequence_bias,
    "encoder_repetition_penalty": _encoder_repetition_penalty,
    "repetition_penalty": _repetition_penalty,
    "no_repeat_ngram_size": _no_repeat_ngram_size,
    "bad_words_ids": _bad_words_ids,
    "min_length": _min_length,
}
"""By option, in the order in which they are applied: what makes its step, or None where it is off."""
ENDINGS: dict[str, Callable[[GenerationConfig], Step | None]] = {
    "forced_bos_token_id": _forced_bos_token_id,
    "forced_eos_token_id": _forced_eos_token_id,
    "exponential_decay_length_penalty": _exponential_decay_length_penalty,
    "suppress_tokens": _suppress_tokens,
    "begin_suppress_tokens": _begin_suppress_tokens,
}
"""The same, after what a `prefix_allowed_tokens_fn` allows."""
FILTERS: dict[str, Callable[[GenerationConfig], Step | None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "typical_p": _typical_p,
    "epsilon_cutoff": _epsilon_cutoff,
    "eta_cutoff": _eta_cutoff,
    "renormalize_logits": _renormalize_logits,
}
"""The same, after logits processors of a call."""
