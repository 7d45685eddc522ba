"""Attention of the text transformer: to the text itself, to one picture, or to two.

Shapes: B texts, L tokens, W width, H heads, D = W / H, S encoder states (image tokens) of B' pictures.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextConfig
from blip_tf.nn import Layer, LayerNorm, Linear, attention, dropout, merge_heads, sizes, split_heads

KeysValues = tuple[Tensor, Tensor]


class TextSelfAttention(Layer):
    """Multi-head attention of texts to themselves or to encoder states, before its output projection."""

    def __init__(self, config: BlipTextConfig, states_width: int):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(states_width, config.hidden_size)
        self.value = Linear(states_width, config.hidden_size)

    def keys_values(self, states: Tensor) -> KeysValues:
        """States (B', S, width) -> keys and values (B', H, S, D)."""
        return split_heads(self.key(states), self.heads), split_heads(self.value(states), self.heads)

    def call(
        self,
        x: Tensor,
        keys_values: KeysValues,
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
        # Otherwise the texts of a picture are joined along L to read the same keys.
        query = split_heads(tf.reshape(self.query(x), (pictures, -1, width)), self.heads)  # (B', H, texts * L, D)
        rate = self.dropout if training else 0.0
        context, probabilities = attention(query, key, value, score_mask, rate, output_attentions)
        return tf.reshape(merge_heads(context), (batch, length, width)), probabilities  # (B, L, W), (B, H, L, S)


class TextOutput(Layer):
    """The end of an attention or a feed-forward network: projection, residual connection, LayerNorm."""

    def __init__(self, config: BlipTextConfig, width: int):
        super().__init__()
        self.hidden_dropout = config.hidden_dropout_prob
        self.dense = Linear(width, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def call(self, x: Tensor, residual: Tensor, training: bool = False) -> Tensor:
        return self.LayerNorm(residual + dropout(self.dense(x), self.hidden_dropout, training))


class TextAttention(Layer):
    """Attention with its output projection, residual connection and LayerNorm."""

    def __init__(self, config: BlipTextConfig, states_width: int):
        super().__init__()
        self.self = TextSelfAttention(config, states_width)
        self.output_ = TextOutput(config, config.hidden_size)

    def keys_values(self, states: Tensor) -> KeysValues:
        """States (B', S, width) -> keys and values (B', H, S, D)."""
        return self.self.keys_values(states)

    def call(
        self,
        x: Tensor,
        keys_values: KeysValues,
        score_mask: Tensor | None = None,
        output_attentions: bool = False,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        options = {"output_attentions": output_attentions, "training": training}
        context, probabilities = self.self(x, keys_values=keys_values, score_mask=score_mask, **options)
        return self.output_(context, x, training=training), probabilities


class PairOutput(Layer):
    """The end of a cross-attention to two pictures: a projection for each, joined, residual connection, LayerNorm.

    In the first layers the two are averaged, from layer 6 on merged by a linear layer.
    """

    def __init__(self, config: BlipTextConfig, merge: bool):
        super().__init__()
        self.hidden_dropout = config.hidden_dropout_prob
        self.dense0 = Linear(config.hidden_size, config.hidden_size)
        self.dense1 = Linear(config.hidden_size, config.hidden_size)
        self.merge_layer = Linear(2 * config.hidden_size, config.hidden_size) if merge else None
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def call(self, first: Tensor, second: Tensor, residual: Tensor, training: bool = False) -> Tensor:
        first, second = self.dense0(first), self.dense1(second)
        x = (first + second) / 2 if self.merge_layer is None else self.merge_layer(tf.concat([first, second], axis=-1))
        return self.LayerNorm(residual + dropout(x, self.hidden_dropout, training))


class PairAttention(Layer):
    """Cross-attention of NLVR to two pictures, each through weights of its own.

    The states of a text's two pictures lie one behind the other, (B, 2 S, width). Source: the original's
    `nlvr_encoder.py`.
    """

    def __init__(self, config: BlipTextConfig, merge: bool):
        super().__init__()
        self.self0 = TextSelfAttention(config, config.encoder_hidden_size)
        self.self1 = TextSelfAttention(config, config.encoder_hidden_size)
        self.output_ = PairOutput(config, merge)

    def keys_values(self, states: Tensor) -> tuple[KeysValues, KeysValues]:
        """States (B, 2 S, width) -> keys and values (B, H, S, D) of the first and of the second picture."""
        first, second = tf.split(states, 2, axis=1)
        return self.self0.keys_values(first), self.self1.keys_values(second)

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
        first, probabilities0 = self.self0(x, keys_values=keys_values[0], score_mask=masks[0], **options)
        second, probabilities1 = self.self1(x, keys_values=keys_values[1], score_mask=masks[1], **options)
        probabilities = tf.concat([probabilities0, probabilities1], axis=-1) if output_attentions else None
        return self.output_(first, second, x, training=training), probabilities
