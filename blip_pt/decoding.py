"""The KV cache and the decoding session: what lets the search of `blip_core.generation` drive the text decoder.

Shapes: R rows (texts under way), B' pictures, H heads, D head width, C capacity in tokens, S encoder states,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from blip_core import BlipTextOutput, GenerationOutput
from blip_core.generation.generation_hooks import Tensors
from blip_core.generation.prompts import Prompts
from blip_pt.nn import additive_mask, causal_mask, over_heads, to_array

if TYPE_CHECKING:
    from blip_pt.language_model import BlipTextLMHeadModel
    from blip_pt.text import TextLayer


class LayerCache:
    """Keys and values of one layer: of the texts so far (R, H, C, D), and of the encoder states, `cross` (B', H, S, D).

    The texts' are written into memory taken once; the encoder's are computed once for each picture and shared by all
    of its rows.
    """

    def __init__(self, key: Tensor, value: Tensor, cross: tuple[Tensor, Tensor]):
        self.key, self.value, self.cross = key, value, cross
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values (R, H, L, D) of new tokens and return those of all tokens so far."""
        end = self.length + key.shape[2]
        self.key[:, :, self.length : end] = key
        self.value[:, :, self.length : end] = value
        self.length = end
        return self.key[:, :, :end], self.value[:, :, :end]

    def select(self, rows: Tensor, pictures: Tensor | None) -> None:
        """Keep these rows and, where they change, these pictures."""
        if rows.shape[0] > self.key.shape[0]:
            self.key, self.value = self.key[rows], self.value[rows]
        else:  # the usual case, every step of a beam search: only what is filled is moved, within the same memory
            kept, end = slice(rows.shape[0]), self.length
            self.key[kept, :, :end] = self.key[rows, :, :end]
            self.value[kept, :, :end] = self.value[rows, :, :end]
            self.key, self.value = self.key[kept], self.value[kept]
        if pictures is not None:
            self.cross = self.cross[0][pictures], self.cross[1][pictures]


class GrowingCache:
    """Keys and values (B, H, L, D) of one layer as `past_key_values` have them: of the text, then of encoder states."""

    def __init__(self, past: tuple[Tensor, ...]):
        self.own, self.cross = past[:2], past[2:4] or None
        self.length = past[0].shape[2] if past else 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens and return those of all tokens so far."""
        new = (key, value)
        self.own = (
            tuple(torch.cat([old, new], dim=2) for old, new in zip(self.own, new, strict=True)) if self.own else new
        )
        return self.own[0], self.own[1]

    @property
    def past(self) -> tuple[Tensor, ...]:
        """What `past_key_values` have of the layer."""
        return (*self.own, *(self.cross or ()))


class TextCache:
    """What the text model needs beside the new tokens (R, L): the layers' caches and, set before each call, `mask`
    (to be added to the scores; broadcasts to (R, H, L, tokens so far)) and `positions` (R, L) or (L,)."""

    def __init__(self, layers: list[LayerCache], states_mask: Tensor | None):
        self.layers = layers
        self.states_mask = states_mask
        self.mask: Tensor | None = None
        self.positions = torch.zeros(0)


class PyTorchSession:
    """Decodes a batch of texts one token at a time (the `DecodingSession` of `blip_core.generation`).

    Prompts of different lengths are padded on the right; a new token goes behind the padding of all rows, where `real`
    hides the padding, while its position counts its own row's tokens. So each row is computed as it would be alone.
    """

    def __init__(
        self, decoder: BlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, rows: int, capacity: int
    ):
        self.decoder = decoder
        heads = decoder.config.num_attention_heads
        shape = (rows, heads, capacity, decoder.config.hidden_size // heads)
        with torch.inference_mode():
            layers = [
                LayerCache(states.new_empty(shape), states.new_empty(shape), layer.crossattention.keys_values(states))
                for layer in cast("Iterable[TextLayer]", decoder.bert.encoder.layer)
            ]
            mask = None if states_mask is None else additive_mask(over_heads(states_mask), states.dtype)
        self.cache = TextCache(layers, mask)
        self.picture_of = torch.arange(states.shape[0]).repeat_interleave(rows // states.shape[0])  # (R,)

    @torch.inference_mode()
    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Read the prompts (R, L), padded on the right, and return the logits (R, V) after each one's last token."""
        device = self.decoder.device
        ids, real = torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device)
        self.real = None if attention_mask.all() else real
        self.lengths = real.sum(1)
        self.cache.mask = causal_mask(self.real, ids.shape[1], device, self.decoder.dtype)
        self.cache.positions = torch.arange(ids.shape[1], device=device)
        hidden = self.decoder.bert(ids, cache=self.cache).last_hidden_state  # (R, L, W)
        return self._logits(hidden[torch.arange(ids.shape[0], device=device), self.lengths - 1])

    @torch.inference_mode()
    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Read one more token of each row (R,) and return the logits (R, V) after it."""
        ids = torch.from_numpy(tokens).to(self.decoder.device)[:, None]
        if self.real is not None:
            self.real = torch.cat([self.real, torch.ones_like(ids)], dim=1)
            self.cache.mask = additive_mask(over_heads(self.real), self.decoder.dtype)
        else:
            self.cache.mask = None
        self.cache.positions = self.lengths[:, None]
        self.lengths = self.lengths + 1
        return self._logits(self.decoder.bert(ids, cache=self.cache).last_hidden_state[:, 0])

    @torch.inference_mode()
    def select(self, rows: np.ndarray) -> None:
        """Keep these rows: new row j continues old row rows[j]."""
        index = torch.from_numpy(rows)
        wanted = self.picture_of[index]
        pictures, self.picture_of = torch.unique_consecutive(wanted, return_inverse=True)
        changed = pictures.shape[0] != self.cache.layers[0].cross[0].shape[0]
        index, pictures = index.to(self.decoder.device), pictures.to(self.decoder.device)
        for layer in self.cache.layers:
            layer.select(index, pictures if changed else None)
        if changed and self.cache.states_mask is not None:
            self.cache.states_mask = self.cache.states_mask[pictures]
        self.lengths = self.lengths[index]
        if self.real is not None:
            self.real = self.real[index]

    def _logits(self, hidden: Tensor) -> np.ndarray:
        logits: np.ndarray = self.decoder.cls(hidden).float().cpu().numpy()
        return logits


def search(
    decoder: BlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, prompts: Prompts
) -> Tensor | GenerationOutput:
    """Generate from encoder states (B or 1, S, W)."""
    session = PyTorchSession(decoder, states, states_mask, len(prompts.input_ids), prompts.capacity)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(decoder.device)

    def read(ids: np.ndarray, mask: np.ndarray) -> BlipTextOutput:
        positions = tensor((mask.cumsum(axis=1) - 1).clip(0))
        return decoder.bert(
            tensor(ids), tensor(mask), positions, encoder_hidden_states=states, encoder_attention_mask=states_mask,
            is_decoder=True, output_hidden_states=True, output_attentions=True,
        )  # fmt: skip

    found: Tensor | GenerationOutput = prompts.generate(session, Tensors(tensor, torch.from_numpy, to_array), read)
    return found
