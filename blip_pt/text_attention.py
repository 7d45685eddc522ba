"""Attention of the text transformer: to the text itself, to one picture, or to two.

Shapes: B texts, L tokens, W width, H heads, D = W / H, S encoder states (image tokens) of B' pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip_core import BlipTextConfig
from blip_pt.nn import LayerNorm, Linear, attention, merge_heads, split_heads

KeysValues = tuple[Tensor, Tensor]


class AttentionBranch(nn.Module):
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

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        key, value = keys_values
        texts = len(x) // len(key)  # of each picture: they are put one behind the other to read the same keys
        if output_attentions:  # each reads its own keys, so that the probabilities returned are those used
            key, value = key.repeat_interleave(texts, dim=0), value.repeat_interleave(texts, dim=0)
            mask = None if mask is None else mask.repeat_interleave(texts, dim=0)
            texts = 1
        query = split_heads(
            self.query(x).reshape(len(key), texts * x.shape[1], -1), self.heads
        )  # (B', H, texts * L, D)
        dropout = self.dropout if self.training else 0.0
        context, probabilities = attention(query, key, value, mask, dropout, output_attentions)
        return self.projection(merge_heads(context).reshape(x.shape)), probabilities  # (B, L, W), (B, H, L, S)


class TextAttention(AttentionBranch):
    """Attention with its residual connection and LayerNorm."""

    def __init__(self, config: BlipTextConfig, states_width: int):
        super().__init__(config, states_width)
        self.hidden_dropout = config.hidden_dropout_prob
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        context, probabilities = super().forward(x, keys_values, mask, output_attentions)
        return self.norm(x + F.dropout(context, self.hidden_dropout, self.training)), probabilities


class PairAttention(nn.Module):
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
        first, second = states.chunk(2, dim=1)
        return self.branch0.keys_values(first), self.branch1.keys_values(second)

    def forward(
        self, x: Tensor, keys_values: tuple[KeysValues, KeysValues], mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        masks = (None, None) if mask is None else mask.chunk(2, dim=-1)
        first, probabilities0 = self.branch0(x, keys_values[0], masks[0], output_attentions)
        second, probabilities1 = self.branch1(x, keys_values[1], masks[1], output_attentions)
        both = (first + second) / 2 if self.merge is None else self.merge(torch.cat([first, second], dim=-1))
        probabilities = torch.cat([probabilities0, probabilities1], dim=-1) if output_attentions else None
        return self.norm(x + F.dropout(both, self.hidden_dropout, self.training)), probabilities
