"""Attention of the text transformer: to the text itself, to one picture, or to two.

Shapes: B texts, L tokens, W width, H heads, D = W / H, S encoder states (image tokens) of B' pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blip_core import BlipTextConfig
from blip_pt.nn import LayerNorm, Linear, attention, dropout, merge_heads, split_heads

KeysValues = tuple[Tensor, Tensor]


class TextSelfAttention(nn.Module):
    """Multi-head attention of texts to themselves or to encoder states, before its output projection."""

    eager = False  # whether attention is computed as where its probabilities are wanted

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

    def forward(
        self, x: Tensor, keys_values: KeysValues, mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        key, value = keys_values
        texts = x.shape[0] // key.shape[0]  # of each picture: they are joined along L to read the same keys
        if output_attentions:  # each reads its own keys, so that the probabilities returned are those used
            key, value = key.repeat_interleave(texts, dim=0), value.repeat_interleave(texts, dim=0)
            mask = None if mask is None else mask.repeat_interleave(texts, dim=0)
            texts = 1
        query = self.query(x).reshape(key.shape[0], texts * x.shape[1], -1)
        query = split_heads(query, self.heads)  # (B', H, texts * L, D)
        dropout = self.dropout if self.training else 0.0
        context, probabilities = attention(query, key, value, mask, dropout, output_attentions or self.eager)
        return merge_heads(context).reshape(x.shape), probabilities  # (B, L, W), (B, H, L, S)


class TextOutput(nn.Module):
    """The end of an attention or a feed-forward network: projection, residual connection, LayerNorm."""

    def __init__(self, config: BlipTextConfig, width: int):
        super().__init__()
        self.hidden_dropout = config.hidden_dropout_prob
        self.dense = Linear(width, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + dropout(self.dense(x), self.hidden_dropout, self.training))


class TextAttention(nn.Module):
    """Attention with its output projection, residual connection and LayerNorm."""

    def __init__(self, config: BlipTextConfig, states_width: int):
        super().__init__()
        self.self = TextSelfAttention(config, states_width)
        self.output = TextOutput(config, config.hidden_size)

    def keys_values(self, states: Tensor) -> KeysValues:
        """States (B', S, width) -> keys and values (B', H, S, D)."""
        return self.self.keys_values(states)

    def forward(
        self, x: Tensor, keys_values: KeysValues, mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        context, probabilities = self.self(x, keys_values, mask, output_attentions)
        return self.output(context, x), probabilities


class PairOutput(nn.Module):
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

    def forward(self, first: Tensor, second: Tensor, residual: Tensor) -> Tensor:
        first, second = self.dense0(first), self.dense1(second)
        merge = self.merge_layer
        x = (first + second) / 2 if merge is None else merge(torch.cat([first, second], dim=-1))
        return self.LayerNorm(residual + dropout(x, self.hidden_dropout, self.training))


class PairAttention(nn.Module):
    """Cross-attention of NLVR to two pictures, each through weights of its own.

    The states of a text's two pictures lie one behind the other, (B, 2 S, width). Source: the original's
    `nlvr_encoder.py`.
    """

    def __init__(self, config: BlipTextConfig, merge: bool):
        super().__init__()
        self.self0 = TextSelfAttention(config, config.encoder_hidden_size)
        self.self1 = TextSelfAttention(config, config.encoder_hidden_size)
        self.output = PairOutput(config, merge)

    def keys_values(self, states: Tensor) -> tuple[KeysValues, KeysValues]:
        """States (B, 2 S, width) -> keys and values (B, H, S, D) of the first and of the second picture."""
        first, second = states.chunk(2, dim=1)
        return self.self0.keys_values(first), self.self1.keys_values(second)

    def forward(
        self, x: Tensor, keys_values: tuple[KeysValues, KeysValues], mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        masks = (None, None) if mask is None else mask.chunk(2, dim=-1)
        first, probabilities0 = self.self0(x, keys_values[0], masks[0], output_attentions)
        second, probabilities1 = self.self1(x, keys_values[1], masks[1], output_attentions)
        probabilities = torch.cat([probabilities0, probabilities1], dim=-1) if output_attentions else None
        return self.output(first, second, x), probabilities
