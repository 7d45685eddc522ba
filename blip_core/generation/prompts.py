"""Prompts of captions and answers, as the decoder reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blip_core.checks import check_pairs, start_token, unpadded
from blip_core.config import BlipTextConfig
from blip_core.generation.batch import DecodingSession, GenerationOutput, generate
from blip_core.generation.call_checks import check_stream, item_seeds
from blip_core.generation.generation_hooks import Hooks, Tensors
from blip_core.generation.options import GenerationConfig
from blip_core.generation.whole_batch import Steps

if TYPE_CHECKING:
    from blip_core.processing.processor import BlipProcessor

Read = Callable[[np.ndarray, np.ndarray], Any]
"""Called with texts (rows, length) and their mask, returns what the text transformer does, with all states."""


@dataclass(frozen=True)
class Prompts:
    """Prompts int64 (items, length) and their mask, how to continue them, and the KV cache's size in tokens."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    config: GenerationConfig
    capacity: int
    max_positions: int
    seed: int | Sequence[int] | None
    stream: Callable[[int, int], None] | None
    hooks: Hooks

    def generate(self, session: DecodingSession, tensors: Tensors, read: Read) -> Any:
        """Continue the prompts by a session of so many rows and that capacity.

        `tensors` are the engine's; `read` gives the states and attentions of texts, int64 (rows, length) and mask.
        Returns int64 tokens (rows, length), or a `GenerationOutput` where the configuration asks for it.
        """
        config = self.config
        steps: Steps = []
        output = generate(
            session,
            self.input_ids,
            self.attention_mask,
            config,
            seed=self.seed,
            stream=self.stream,
            max_positions=self.max_positions,
            hooks=self.hooks.with_tensors(tensors),
            steps=steps if config.output_attentions or config.output_hidden_states else None,
        ).map(tensors.make)
        return with_states(output, steps, read, config) if config.return_dict_in_generate else output.sequences


def prepare_prompts(
    input_ids: np.ndarray | None,
    attention_mask: np.ndarray | None,
    items: int,
    text: BlipTextConfig,
    config: GenerationConfig,
    options: Mapping[str, Any],
    seed: int | Sequence[int] | None,
    stream: Callable[[int, int], None] | None,
) -> Prompts:
    """Prepare generation for `items` pictures; wrong arguments are refused before anything is computed.

    `options` are hooks, and fields that replace those of `config`. Raises `ValueError`.
    """
    tokens = {"bos_token_id": text.bos_token_id, "eos_token_id": text.sep_token_id, "pad_token_id": text.pad_token_id}
    hooks, options = Hooks.taken_from(options)
    config = config.updated(**{**tokens, **options})
    ids, mask = decoder_prompts(input_ids, attention_mask, items, text, config.prompt_ids)
    check_pairs(items, len(ids))
    check_stream(stream, hooks, config)
    if config.do_sample:
        item_seeds(seed, len(ids))
    longest = text.max_position_embeddings
    limits = [config.length_limits(length, longest)[1] - length for length in mask.sum(1).tolist()]
    return Prompts(ids, mask, config, ids.shape[1] + max(limits), longest, seed, stream, hooks)


def with_states(output: GenerationOutput, steps: Steps, read: Read, config: GenerationConfig) -> GenerationOutput:
    """Add the attentions and hidden states of each step as asked for; they are computed anew, by whole texts."""
    found: dict[str, list[Any]] = {"attentions": [], "cross_attentions": [], "hidden_states": []}
    for index, (ids, mask) in enumerate(steps):
        states, new = read(ids, mask), slice(-1 if index else None, None)
        found["attentions"].append(tuple(layer[:, :, new] for layer in states.attentions))
        found["cross_attentions"].append(tuple(layer[:, :, new] for layer in states.cross_attentions))
        found["hidden_states"].append(tuple(layer[:, new] for layer in states.hidden_states))
    if config.output_attentions:
        output.attentions, output.cross_attentions = tuple(found["attentions"]), tuple(found["cross_attentions"])
    if config.output_hidden_states:
        output.hidden_states = tuple(found["hidden_states"])
    return output


def prompt_tokens(prompt: str, processor: BlipProcessor) -> list[int]:
    """Return the tokens of a prompt for `generate(prompt_ids=...)`, without `[CLS]` and `[SEP]`."""
    return list(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])


def decoder_prompts(
    input_ids: np.ndarray | None,
    attention_mask: np.ndarray | None,
    items: int,
    config: BlipTextConfig,
    prompt_ids: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Turn tokenized prompts into the beginnings of captions, one for each of `items` pictures.

    The first token of each row becomes `[DEC]` (`bos_token_id`), a closing `[SEP]` is dropped from each row by itself,
    and padding moves to the right. Without prompts each row is `[DEC]` and `prompt_ids`. Without a mask, `pad_token_id`
    is padding. Returns int64 ids and mask of shape (items, length). Source: the original's `generate`, row by row.
    """
    if input_ids is None:
        begin = list(prompt_ids or [])
        if max(begin, default=0) >= config.vocab_size:
            raise ValueError(f"prompt_ids holds {max(begin)}, but the vocabulary has {config.vocab_size} tokens.")
        row = np.array([start_token(config), *begin], np.int64)
        return np.tile(row, (items, 1)), np.ones((items, len(row)), np.int64)
    rows = unpadded(input_ids, attention_mask, config)
    rows = [row[:-1] if len(row) > 1 and row[-1] == config.sep_token_id else row for row in rows]
    rows = [np.concatenate([[start_token(config)], row[1:]]) for row in rows]
    length = max(len(row) for row in rows)
    ids = np.full((len(rows), length), config.pad_token_id, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask
