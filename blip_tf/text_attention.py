"""Attention of the text transformer: to the text itself, to one picture, or to two.

Shapes: B texts, L tokens, W width, H heads, D = W / H, S encoder states (image tokens) of B' pictures.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextConfig
from blip_tf.nn import Layer, LayerNorm, Linear, attention, dropout, merge_heads, sizes, split_heads

KeysValues = tuple[Tensor, Tensor]


class AttentionBranch(Layer):
    """Attention of texts to themselves or to encoder states."""

    def __init__(self, config: BlipTextConfig, states_width: int):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(states_width, config.hidden_size)
        self.value = Linear(states_width, config.hidden_size)
        self.projection = Linear(config.hidden_size, config.hidden_size)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (B', S, width) -> keys and values (B', H, S, D)."""
        return split_heads(self.key(states), self.heads), split_heads(self.value(states), self.heads)

    def call(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        score_mask: Tensor | None = None,  # an argument named `mask` is Keras's own
        output_attentions: bool = False,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        key, value = keys_values
        (batch, length, width), pictures = sizes(x), sizes(key)[0]
        if output_attentions:  # each text reads its own keys, so that the probabilities returned are those used
            key, value = tf.repeat(key, batch // pictures, axis=0), tf.repeat(value, batch // pictures, axis=0)
            score_mask = None if score_mask is None else tf.repeat(score_mask, batch // pictures, axis=0)
            pictures = batch
        # Otherwise the texts of a picture are put one behind the other to read the same ones.
        query = split_heads(tf.reshape(self.query(x), (pictures, -1, width)), self.heads)  # (B', H, texts * L, D)
        rate = self.dropout if training else 0.0
        context, probabilities = attention(query, key, value, score_mask, rate, output_attentions)
        context = self.projection(tf.reshape(merge_heads(context), (batch, length, width)))  # (B, L, W)
        return context, probabilities  # (B, H, L, S)


class TextAttention(AttentionBranch):
    """Attention with its residual connection and LayerNorm."""

    def __init__(self, config: BlipTextConfig, states_width: int):
        super().__init__(config, states_width)
        self.hidden_dropout = config.hidden_dropout_prob
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def call(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        score_mask: Tensor | None = None,
        output_attentions: bool = False,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        context, probabilities = super().call(x, keys_values, score_mask, output_attentions, training)
        return self.norm(x + dropout(context, self.hidden_dropout, training)), probabilities


class PairAttention(Layer):
    """Cross-attention of NLVR to two pictures, each through a branch of its own.

    In the first layers the mean of both branches goes on, from layer 6 a linear map of both. The states of a text's
    two pictures come one behind the other, (B, 2 S, width). Source: the original's `nlvr_encoder.py`.
    """

    def __init__(self, config: BlipTextConfig, merge: bool):
        super().__init__()
        self.hidden_dropout = config.hidden_dropout_prob
        self.branch0 = AttentionBranch(config, config.encoder_hidden_size)
        self.branch1 = AttentionBranch(config, config.encoder_hidden_size)
        self.merge = Linear(2 * config.hidden_size, config.hidden_size) if merge else None
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def keys_values(self, states: Tensor) -> tuple[KeysValues, KeysValues]:
        """States (B, 2 S, width) -> keys and values (B, H, S, D) of the first and of the second picture."""
        first, second = tf.split(states, 2, axis=1)
        return self.branch0.keys_values(first), self.branch1.keys_values(second)

    def call(
        self,
        x: Tensor,
        keys_values: tuple[KeysValues, KeysValues],
        score_mask: Tensor | None = None,
        output_attentions: bool = False,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        masks = (None, None) if score_mask is None else tf.split(score_mask, 2, axis=-1)
        options = {"output_attentions": output_attentions, "training": training}
        first, probabilities0 = self.branch0(x, keys_values=keys_values[0], score_mask=masks[0], **options)
        second, probabilities1 = self.branch1(x, keys_values=keys_values[1], score_mask=masks[1], **options)
        both = (first + second) / 2 if self.merge is None else self.merge(tf.concat([first, second], axis=-1))
        probabilities = tf.concat([probabilities0, probabilities1], axis=-1) if output_attentions else None
        return self.norm(x + dropout(both, self.hidden_dropout, training)), probabilities
