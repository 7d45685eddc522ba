"""Checks of what `generate` is called with."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from blip_core.generation.generation_hooks import Hooks
from blip_core.generation.options import GenerationConfig


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


def check_stream(stream: Callable[[int, int], None] | None, hooks: Hooks, config: GenerationConfig) -> None:
    """Refuse to stream tokens that a later step may replace."""
    if hooks.streamer is not None and config.num_beams > 1:
        raise ValueError("streamer needs num_beams=1: with beams a later step may replace tokens.")
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
