"""The KV cache and the decoding session: what lets the search of `blip_core.generation` drive the text decoder.

Shapes: R rows (texts under way), B' pictures, L new tokens, H heads, D head width, C capacity in tokens, S encoder
states, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextOutput, GenerationOutput
from blip_core.generation.generation_hooks import Tensors
from blip_core.generation.prompts import Prompts
from blip_tf.nn import additive_mask, causal_mask, over_heads, sizes, to_array

if TYPE_CHECKING:
    from blip_tf.language_model import TFBlipTextLMHeadModel

KeysValues = tuple[Tensor, Tensor]
BLOCK = 32  # capacities are multiples of it, so that few shapes come up


class LayerCache:
    """Keys and values of one layer: of the texts (R, H, C, D), and of the encoder states, `cross` (B', H, S, D).

    The texts' have room for all tokens to come, and the first `length` are filled; the encoder's are computed once for
    each picture and shared by all of its rows.
    """

    def __init__(self, key: Tensor, value: Tensor, cross: tuple[Tensor, Tensor], length: int | Tensor = 0):
        self.key, self.value, self.cross = key, value, cross
        self.length = length

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values (R, H, L, D) of new tokens and return those of all C places."""
        self.key, self.value = (
            tf.ensure_shape(
                tf.concat([old[:, :, : self.length], new, old[:, :, self.length + sizes(new)[2] :]], axis=2), old.shape
            )
            for old, new in ((self.key, key), (self.value, value))
        )
        return self.key, self.value

    def select(self, rows: Tensor, pictures: Tensor | None) -> None:
        """Keep these rows and, where they change, these pictures."""
        self.key, self.value = tf.gather(self.key, rows), tf.gather(self.value, rows)
        if pictures is not None:
            self.cross = tf.gather(self.cross[0], pictures), tf.gather(self.cross[1], pictures)


class GrowingCache:
    """Keys and values (B, H, L, D) of one layer as `past_key_values` have them: of the text, then of encoder states."""

    def __init__(self, past: tuple[Tensor, ...]):
        self.own, self.cross = past[:2], past[2:4] or None
        self.length = past[0].shape[2] if past else 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens and return those of all tokens so far."""
        new = (key, value)
        self.own = (
            tuple(tf.concat([old, new], axis=2) for old, new in zip(self.own, new, strict=True)) if self.own else new
        )
        return self.own[0], self.own[1]

    @property
    def past(self) -> tuple[Tensor, ...]:
        """What `past_key_values` have of the layer."""
        return (*self.own, *(self.cross or ()))


class TextCache:
    """What the text model needs beside the new tokens (R, L): the layers' caches, `mask` (to be added to the scores;
    broadcasts to (R, H, L, C)), `states_mask` likewise (B', H, L, S), and `positions` (R, L)."""

    def __init__(self, layers: list[LayerCache], states_mask: Tensor, mask: Tensor, positions: Tensor):
        self.layers = layers
        self.states_mask = states_mask
        self.mask = mask
        self.positions = positions


class DecodingGraphs:
    """The two compiled functions of a text decoder. Each is traced once, for any number of rows and tokens.

    `begin`: encoder states (B', S, width) -> keys and values of each layer's cross-attention.
    `extend`: new tokens -> logits, and the layers' new keys and values. Prefill and step are the same function.
    """

    def __init__(self, decoder: TFBlipTextLMHeadModel):
        config, kind = decoder.config, decoder.compute_dtype
        self.decoder = decoder
        self.heads = config.num_attention_heads
        self.head_width = config.hidden_size // self.heads
        states = tf.TensorSpec((None, None, config.encoder_hidden_size), kind)
        keys = tf.TensorSpec((None, self.heads, None, self.head_width), kind)
        layers = [((keys, keys), (keys, keys))] * config.num_hidden_layers
        whole, length = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((), tf.int32)
        self.begin = tf.function(self._begin, [states], autograph=False)
        self.extend = tf.function(self._extend, [whole, whole, length, layers, whole], autograph=False)

    def empty(self, rows: int | Tensor, capacity: int | Tensor) -> Tensor:
        """Keys or values (R, H, C, D) of a layer that has read nothing."""
        return tf.zeros((rows, self.heads, capacity, self.head_width), self.decoder.compute_dtype)

    def _begin(self, states: Tensor) -> list[KeysValues]:
        return [layer.crossattention.keys_values(states) for layer in self.decoder.bert.encoder.layer]

    def _extend(
        self,
        ids: Tensor,
        real: Tensor,
        length: Tensor,
        layers: list[tuple[KeysValues, KeysValues]],
        states_mask: Tensor,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Read tokens (R, L) behind the `length` tokens that the caches hold.

        `real` (R, C) is 1 for each row's tokens, the new ones included, and 0 for padding; `layers` are the caches'
        own keys and values, and those of the encoder states, whose mask is (B', S). Returns logits (R, V) after the
        last real one of each row's new tokens, and the caches' keys and values.
        """
        kind, (_, new) = self.decoder.compute_dtype, sizes(ids)
        caches = [LayerCache(*own, cross, length) for own, cross in layers]
        counts = tf.cumsum(real, axis=1)[:, length : length + new]  # (R, L)
        cache = TextCache(
            caches,
            states_mask=additive_mask(over_heads(states_mask), kind),
            mask=causal_mask(real, new, kind, start=length),
            positions=tf.maximum(counts - 1, 0),
        )
        hidden = self.decoder.bert(ids, cache=cache).last_hidden_state  # (R, L, W)
        last = tf.reduce_sum(tf.cast(counts < counts[:, -1:], tf.int32), axis=1)  # (R,)
        logits = self.decoder.cls(tf.gather(hidden, last, batch_dims=1))  # (R, V)
        return tf.cast(logits, tf.float32), [(cache.key, cache.value) for cache in caches]


class TensorFlowSession:
    """Decodes a batch of texts one token at a time (the `DecodingSession` of `blip_core.generation`).

    Prompts of different lengths are padded on the right; a new token goes behind the padding of all rows, where `real`
    hides the padding, while its position counts its own row's tokens. So each row is computed as it would be alone.
    """

    def __init__(
        self, decoder: TFBlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, rows: int, capacity: int
    ):
        self.graphs = decoder.decoding_graphs
        capacity = -(-capacity // BLOCK) * BLOCK
        empty = self.graphs.empty(rows, capacity)
        crosses = self.graphs.begin(tf.cast(states, decoder.compute_dtype))
        self.layers = [LayerCache(empty, empty, cross) for cross in crosses]
        mask = tf.ones(states.shape[:2], tf.int32) if states_mask is None else states_mask
        self.states_mask = tf.cast(mask, tf.int32)
        self.real = np.zeros((rows, capacity), np.int32)
        self.picture_of = np.arange(states.shape[0]).repeat(rows // states.shape[0])  # (R,)

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Read the prompts (R, L), padded on the right, and return the logits (R, V) after each one's last token."""
        self.length = 0
        return self._extend(input_ids, attention_mask)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Read one more token of each row (R,) and return the logits (R, V) after it."""
        return self._extend(tokens[:, None], np.ones_like(tokens)[:, None])

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows: new row j continues old row rows[j]."""
        wanted = self.picture_of[rows]
        pictures, self.picture_of = np.unique(wanted, return_inverse=True)
        changed = pictures.shape[0] != self.states_mask.shape[0]
        for layer in self.layers:
            layer.select(rows, pictures if changed else None)
        if changed:
            self.states_mask = tf.gather(self.states_mask, pictures)
        self.real = self.real[rows]

    def _extend(self, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
        end = self.length + ids.shape[1]
        self.real[:, self.length : end] = real
        arrays = (tf.constant(array, tf.int32) for array in (ids, self.real, self.length))
        layers = [((layer.key, layer.value), layer.cross) for layer in self.layers]
        logits, own = self.graphs.extend(*arrays, layers, self.states_mask)
        for layer, (key, value) in zip(self.layers, own, strict=True):
            layer.key, layer.value = key, value
        self.length = end
        return logits.numpy()


def search(
    decoder: TFBlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, prompts: Prompts
) -> Tensor | GenerationOutput:
    """Generate from encoder states (B or 1, S, W)."""
    session = TensorFlowSession(decoder, states, states_mask, len(prompts.input_ids), prompts.capacity)

    def read(ids: np.ndarray, mask: np.ndarray) -> BlipTextOutput:
        positions = tf.constant((mask.cumsum(axis=1) - 1).clip(0))
        return decoder.bert(
            tf.constant(ids), tf.constant(mask), positions, encoder_hidden_states=states,
            encoder_attention_mask=states_mask, is_decoder=True, output_hidden_states=True, output_attentions=True,
        )  # fmt: skip

    tensor = tf.convert_to_tensor
    return prompts.generate(session, Tensors(tensor, tensor, to_array), read)
