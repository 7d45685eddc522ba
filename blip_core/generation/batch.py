"""Generate over a batch: drive an engine's decoding session with one search per item."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from blip_core.generation.beam_search import Beams, Chains, Search
from blip_core.generation.logits import LogitsProcessor
from blip_core.generation.options import GenerationConfig
from blip_core.outputs import ModelOutput


class DecodingSession(Protocol):
    """What an engine offers: one use of a text decoder with its KV cache, over rows of one batch.

    Rows of one item (image or prompt) are contiguous, every live item has the same number of rows, and items keep
    their order; so an item's rows can share its cross-attention keys and values.
    """

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Read the prompts, int64 (items, length), right-padded, mask 1 or 0.

        Returns float32 logits (items, vocabulary) of the token after each item's last real token.
        """
        ...

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Append int64 (rows,) tokens, one to each row; return float32 logits (rows, vocabulary) of the next."""
        ...

    def select(self, rows: np.ndarray) -> None:
        """Make row j of the new batch continue row rows[j], int64, of the old: beams move, multiply and leave."""
        ...


@dataclass
class GenerationOutput(ModelOutput):
    """The texts that `generate` found.

    Rows are items x `num_return_sequences`: the texts of an item stand together, best first.

    Attributes:
        sequences: int64 (rows, longest); each row its own prompt without padding, its new tokens with the end token,
            then `pad_token_id`.
        sequences_scores: With `return_dict_in_generate` float32 (rows,). Beams: the sum of log-probabilities after
            penalties / new tokens ** length_penalty. Greedy search and sampling: the sum of `token_log_probs`.
        token_log_probs: With `return_dict_in_generate` float32 (rows, new tokens), each new token's log-probability,
            end token included, under the model's own distribution before penalties and filters; NaN after the end.
        beam_indices: With `return_dict_in_generate` and beams int64 (rows, new tokens); the row of `scores` that each
            token was chosen from, -1 after the end.
        scores: With `output_scores`, for each step of the search float32 (items x beams or num_return_sequences,
            vocabulary), by which the next token was chosen: with beams log-probabilities, else logits, after penalties
            and filters. NaN where a row had ended before.
    """

    sequences: Any = None
    sequences_scores: Any = None
    token_log_probs: Any = None
    beam_indices: Any = None
    scores: tuple[Any, ...] | None = None


def generate(
    session: DecodingSession,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    config: GenerationConfig,
    *,
    seed: int | Sequence[int] | None = None,
    stream: Callable[[int, int], None] | None = None,
    max_positions: int | None = None,
) -> GenerationOutput:
    """Continue prompts. Each item's texts are the same alone and in any batch, and in every engine.

    Args:
        session: One use of a decoder, see `DecodingSession`.
        input_ids: Integers (items, length), right-padded.
        attention_mask: (items, length), 1 for tokens, 0 for padding.
        config: The options.
        seed: Of sampling. A number is used for every item alike, so that the same picture gets the same text whatever
            its neighbours; a sequence holds one per item; None draws new ones. One uniform number per row and token
            (with beams one per candidate) comes from Philox keyed by the seed and the index of the returned text.
        stream: Called as stream(item, token) with each new token as soon as it is known; one text per item, no beams.
        max_positions: The longest text that the model can take, prompt included.

    Returns:
        The texts of all items.

    Raises:
        ValueError: Prompts, lengths or options cannot work together, logits are not finite, or the options allow no
            token at all.
    """
    input_ids, attention_mask, prompts = check_prompts(input_ids, attention_mask)
    check_stream(stream, config)
    if unused := config.unused_options():
        warnings.warn(f"{', '.join(unused)}: no effect with {_method(config)}.", stacklevel=2)
    seeds = item_seeds(seed, len(prompts)) if config.do_sample else [None] * len(prompts)
    kind = Beams if config.num_beams > 1 else Chains
    limits = [config.length_limits(len(prompt), max_positions) for prompt in prompts]
    searches: list[Search] = [kind(p, config, limit, s) for p, limit, s in zip(prompts, limits, seeds, strict=True)]

    recorded: list[np.ndarray] = []
    live = list(enumerate(searches))
    logits = session.prefill(input_ids, attention_mask)
    processor = LogitsProcessor(config, logits.shape[1])
    while True:
        scores = advance([search for _, search in live], logits, config, processor)
        if config.output_scores:
            recorded.append(record(scores, len(recorded), live, len(prompts), config))
        if stream:
            for item, search in live:
                stream(item, search.texts[0].tokens[-1])
        width = len(logits) // len(live)
        rows = [i * width + parent for i, (_, s) in enumerate(live) if not s.done for parent in s.parents]
        live = [(item, search) for item, search in live if not search.done]
        if not live:
            return collect(searches, config, recorded)
        if rows != list(range(len(logits))):
            session.select(np.array(rows, np.int64))
        logits = session.step(np.array([t.tokens[-1] for _, search in live for t in search.texts], np.int64))


def advance(
    searches: list[Search], logits: np.ndarray, config: GenerationConfig, processor: LogitsProcessor
) -> np.ndarray:
    """Advance every search by one step from logits (rows, vocabulary); return the scores that decided the tokens."""
    peak = logits.max(axis=1, keepdims=True)  # NaN where any logit is
    if not np.isfinite(peak).all():
        raise ValueError(
            "The model gave logits that are NaN or infinite: its weights are damaged, or numbers overflowed in half "
            "precision; check the checkpoint, or use float32."
        )
    log_probs = None
    if config.num_beams > 1 or config.return_dict_in_generate:
        shifted = logits - peak
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    scores = logits if config.num_beams == 1 or log_probs is None else log_probs
    texts = [(text, search.shortest) for search in searches for text in search.texts]
    if processor.active:
        scores = scores.copy()
        for row, (text, shortest) in zip(scores, texts, strict=True):
            if not text.finished:
                processor(row, text.tokens, shortest)
    if not config.return_dict_in_generate:
        log_probs = None
    width = len(logits) // len(searches)
    for i, search in enumerate(searches):
        own = slice(i * width, (i + 1) * width)
        search.advance(scores[own], None if log_probs is None else log_probs[own])
    return scores


def check_prompts(input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Return both arrays as int64, and each item's tokens without padding; `ValueError` where they do not fit."""
    input_ids, attention_mask = np.asarray(input_ids), np.asarray(attention_mask)
    if input_ids.ndim != 2 or not input_ids.size or input_ids.dtype.kind not in "iu":
        raise ValueError(
            f"input_ids must be whole numbers of shape (items, length), got {input_ids.dtype} {input_ids.shape}."
        )
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {attention_mask.shape} must have the shape of input_ids {input_ids.shape}.")
    lengths = (attention_mask == 1).sum(axis=1)
    if not np.array_equal(attention_mask, np.arange(input_ids.shape[1]) < lengths[:, None]) or not lengths.all():
        raise ValueError(
            "attention_mask must hold ones, at least one per row, followed by zeros: prompts are padded on the right."
        )
    prompts = [row[:length].tolist() for row, length in zip(input_ids, lengths, strict=True)]
    return input_ids.astype(np.int64), attention_mask.astype(np.int64), prompts


def check_stream(stream: Callable[[int, int], None] | None, config: GenerationConfig) -> None:
    """Refuse to stream tokens that a later step may replace."""
    if stream and (config.num_beams > 1 or config.num_return_sequences > 1):
        raise ValueError(
            "stream needs num_beams=1 and num_return_sequences=1: otherwise a later step may replace tokens."
        )


def item_seeds(seed: int | Sequence[int] | None, items: int) -> list[int]:
    """Return one seed per item."""
    if seed is None:
        return [secrets.randbits(64) for _ in range(items)]
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * items
    if not all(isinstance(s, int | np.integer) and s >= 0 for s in seeds):
        raise ValueError(f"seed must be whole numbers of at least 0, got {seed!r}.")
    if len(seeds) != items:
        raise ValueError(f"seed must be one number or one per item: got {len(seeds)} for {items} items.")
    return [int(s) for s in seeds]


def record(
    scores: np.ndarray, step: int, live: list[tuple[int, Search]], items: int, config: GenerationConfig
) -> np.ndarray:
    """Return the scores of one step for every row of every item, NaN where the row has ended."""
    rows = max(config.num_beams, config.num_return_sequences)
    width = len(scores) // len(live)
    everything = np.full((items, rows, scores.shape[1]), np.nan, np.float32)
    for i, (item, search) in enumerate(live):
        everything[item] = scores[i * width : (i + 1) * width]
        if config.num_beams == 1:
            everything[item, [len(text.rows) <= step for text in search.texts]] = np.nan
    return everything.reshape(items * rows, -1)


def collect(searches: list[Search], config: GenerationConfig, recorded: list[np.ndarray]) -> GenerationOutput:
    """Put the texts of all items into padded arrays."""
    texts = [(item, text) for item, search in enumerate(searches) for text in search.results()]
    output = GenerationOutput(padded([text.tokens for _, text in texts], config.padding_id, np.int64))
    if config.return_dict_in_generate:
        output.sequences_scores = np.array([text.score for _, text in texts], np.float32)
        output.token_log_probs = padded([text.log_probs for _, text in texts], np.nan, np.float32)
        if config.num_beams > 1:
            rows = [[item * config.num_beams + row for row in text.rows] for item, text in texts]
            output.beam_indices = padded(rows, -1, np.int64)
        output.scores = tuple(recorded) if config.output_scores else None
    return output


def padded(rows: Sequence[Sequence[float]], filler: float, dtype: type) -> np.ndarray:
    """Return rows of different lengths as one array, padded on the right."""
    array: np.ndarray = np.full((len(rows), max(map(len, rows))), filler, dtype)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array


def _method(config: GenerationConfig) -> str:
    names = ("greedy search", "sampling", "beam search", "beam sampling")
    return names[2 * (config.num_beams > 1) + config.do_sample]
