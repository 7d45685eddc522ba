"""Generate over a batch: drive an engine's decoding session with one search per item."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from blip_core.generation.beam_search import Beams, Chains, Search
from blip_core.generation.call_checks import check_prompts, check_stream, item_seeds
from blip_core.generation.generation_hooks import Hooks
from blip_core.generation.logits import LogitsProcessor, Place, Step
from blip_core.generation.options import GenerationConfig
from blip_core.generation.whole_batch import Batch, Live, Steps, padded
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
        logits: With `output_logits` the same of the model's logits.
        attentions, cross_attentions: With `output_attentions`, for each step those of each layer, float
            (items x beams or num_return_sequences, heads, new tokens, keys); the first step reads the whole prompt.
        hidden_states: With `output_hidden_states` likewise (rows, new tokens, width).
    """

    sequences: Any = None
    sequences_scores: Any = None
    token_log_probs: Any = None
    beam_indices: Any = None
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None


def generate(
    session: DecodingSession,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    config: GenerationConfig,
    *,
    seed: int | Sequence[int] | None = None,
    stream: Callable[[int, int], None] | None = None,
    max_positions: int | None = None,
    hooks: Hooks | None = None,
    steps: Steps | None = None,
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
        hooks: What the caller hooks in, see `Hooks`.
        steps: A list that gets the texts that each step reads.

    Returns:
        The texts of all items.

    Raises:
        ValueError: Prompts, lengths or options cannot work together, logits are not finite, or the options allow no
            token at all.
    """
    begun, hooks = time.monotonic(), hooks or Hooks()
    input_ids, attention_mask, prompts = check_prompts(input_ids, attention_mask)
    check_stream(stream, hooks, config)
    if unused := config.unused_options():
        warnings.warn(f"{', '.join(unused)}: no effect with {_method(config)}.", stacklevel=2)
    seeds = item_seeds(seed, len(prompts)) if config.do_sample else [None] * len(prompts)
    kind = Beams if config.num_beams > 1 else Chains
    limits = [config.length_limits(len(prompt), max_positions) for prompt in prompts]
    searches: list[Search] = [kind(p, config, limit, s) for p, limit, s in zip(prompts, limits, seeds, strict=True)]

    batch = Batch(config, hooks, searches)
    live = list(enumerate(searches))
    logits = session.prefill(input_ids, attention_mask)
    processor = LogitsProcessor(config, logits.shape[1], hooks.allowed if hooks.prefix_allowed_tokens_fn else None)
    batch.stream_prompts()
    while True:
        if steps is not None:
            steps.append(batch.texts())
        advance(batch, live, logits, processor)
        batch.settle(live, late=config.max_time is not None and time.monotonic() - begun > config.max_time)
        if stream:
            for item, search in live:
                stream(item, search.texts[0].tokens[-1])
        width = len(logits) // len(live)
        rows = [i * width + parent for i, (_, s) in enumerate(live) if not s.done for parent in s.parents]
        live = [(item, search) for item, search in live if not search.done]
        if not live:
            return collect(batch)
        if rows != list(range(len(logits))):
            session.select(np.array(rows, np.int64))
        logits = session.step(np.array([t.tokens[-1] for _, search in live for t in search.texts], np.int64))


def advance(batch: Batch, live: Live, logits: np.ndarray, processor: LogitsProcessor) -> None:
    """Let every live search propose texts from logits (rows, vocabulary)."""
    config = batch.config
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
    hooked = bool(batch.hooks.logits_processor)
    if processor.rules or hooked or processor.filters:
        scores = scores.copy()
        places = [
            None if text.finished else Place(text.tokens, search.prompt_length, search.shortest, search.longest, item)
            for item, search in live
            for text in search.texts
        ]
        apply(processor.rules, scores, places)
        scores = batch.process(scores, live) if hooked else scores
        apply(processor.filters, scores, places)
    batch.record(scores, logits, live)
    if not config.return_dict_in_generate:
        log_probs = None
    width = len(logits) // len(live)
    for i, (_, search) in enumerate(live):
        own = slice(i * width, (i + 1) * width)
        search.propose(scores[own], None if log_probs is None else log_probs[own])


def apply(steps: Sequence[Step], scores: np.ndarray, places: Sequence[Place | None]) -> None:
    """Apply steps to each row of scores (rows, vocabulary) in place; None stands for a row that has ended."""
    for row, place in zip(scores, places, strict=True):
        if place is not None:
            for step in steps:
                step(row, place)


def collect(batch: Batch) -> GenerationOutput:
    """Put the texts of all items into padded arrays."""
    config = batch.config
    texts = [(item, text) for item, search in enumerate(batch.searches) for text in search.results()]
    output = GenerationOutput(padded([text.tokens for _, text in texts], config.padding_id, np.int64))
    if config.return_dict_in_generate:
        output.sequences_scores = np.array([text.score for _, text in texts], np.float32)
        output.token_log_probs = padded([text.log_probs for _, text in texts], np.nan, np.float32)
        if config.num_beams > 1:
            rows = [[item * config.num_beams + row for row in text.rows] for item, text in texts]
            output.beam_indices = padded(rows, -1, np.int64)
        output.logits = tuple(batch.logits) if config.output_logits else None
        output.scores = tuple(batch.scores) if config.output_scores else None
    return output


def _method(config: GenerationConfig) -> str:
    names = ("greedy search", "sampling", "beam search", "beam sampling")
    return names[2 * (config.num_beams > 1) + config.do_sample]
