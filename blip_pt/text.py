"""The text transformer (BERT with cross-attention).

Shapes: B texts, L tokens, W width, S encoder states (image tokens) of B' pictures.
One picture may serve several texts: the texts of a picture lie next to each other, and B is a multiple of B'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from blip_core import BlipTextConfig, BlipTextOutput
from blip_core.calls import called_as_in_transformers, past_layers
from blip_core.checks import check_ids, check_mask, check_states, check_texts, text_source
from blip_pt.base import BlipPreTrainedModel, type_name
from blip_pt.decoding import GrowingCache, LayerCache, TextCache
from blip_pt.model_methods import checkpointed
from blip_pt.nn import (
    ACTIVATIONS,
    Embedding,
    LayerNorm,
    Linear,
    activated,
    additive_mask,
    causal_mask,
    dropout,
    is_tracing,
    over_heads,
)
from blip_pt.text_attention import TextAttention, TextOutput
from blip_pt.text_padding import first_states, token_positions


class TextEmbeddings(nn.Module):
    """Token ids (B, L), or embeddings of words (B, L, W) -> embeddings (B, L, W) with positions, normalised."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.hidden_dropout = config.hidden_dropout_prob
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, inputs: Tensor, position_ids: Tensor) -> Tensor:
        words = self.word_embeddings(inputs) if inputs.ndim == 2 else inputs.to(self.word_embeddings.weight.dtype)
        x = self.LayerNorm(words + self.position_embeddings(position_ids))  # (B, L, W)
        return dropout(x, self.hidden_dropout, self.training)


class TextIntermediate(nn.Module):
    """The first half of a layer's feed-forward network; `TextOutput` is the second."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense = Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.dense, x, self.activation)


class TextLayer(nn.Module):
    """A post-norm transformer layer: self-attention, cross-attention where encoder states are given, feed-forward.

    With `shared` it takes all but its self-attention from a layer of another model.
    """

    def __init__(self, config: BlipTextConfig, crossattention: nn.Module | None, shared: TextLayer | None = None):
        super().__init__()
        self.attention = TextAttention(config, config.hidden_size)
        self.crossattention: Any = crossattention
        self.intermediate: TextIntermediate = TextIntermediate(config) if shared is None else shared.intermediate
        self.output: TextOutput = TextOutput(config, config.intermediate_size) if shared is None else shared.output

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        states: Tensor | None,
        states_mask: Tensor | None,
        cache: LayerCache | GrowingCache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        keys_values = self.attention.keys_values(x)
        if cache is not None:
            keys_values = cache.append(*keys_values)
        x, probabilities = self.attention(x, keys_values, mask, output_attentions)
        cross, cross_probabilities = None if cache is None else cache.cross, None
        if states is not None:
            cross = self.crossattention.keys_values(states)
            if cache is not None:
                cache.cross = cross
        if cross is not None:
            x, cross_probabilities = self.crossattention(x, cross, states_mask, output_attentions)
        return self.output(self.intermediate(x), x), probabilities, cross_probabilities


class TextEncoder(nn.Module):
    """The stack of transformer layers."""

    layer: Any
    __call__: Callable[..., BlipTextOutput]

    def __init__(self, layers: Iterable[TextLayer]):
        super().__init__()
        self.gradient_checkpointing = False
        self.layer = nn.ModuleList(layers)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        states: Tensor | None,
        states_mask: Tensor | None,
        caches: list[LayerCache] | list[GrowingCache] | None,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> BlipTextOutput:
        hidden_states, attentions, cross_attentions = [x], [], []
        for index, layer in enumerate(self.layer):
            cache = None if caches is None else caches[index]
            x, own, cross = checkpointed(self, layer, x, mask, states, states_mask, cache, output_attentions)
            if output_hidden_states:
                hidden_states.append(x)
            attentions.append(own)
            cross_attentions.append(cross)
        return BlipTextOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions and cross is not None else None,
        )


class TextPooler(nn.Module):
    """States (B, L, W) -> a pooled output (B, W), made of the state of each text's first token."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        return torch.tanh(self.dense(first_states(x, attention_mask)))


class BlipTextModel(BlipPreTrainedModel):
    """Texts -> hidden states, by themselves or grounded in encoder states. Source: the original's `BertModel`.

    `shared` is another model from which it has everything but its self-attention, as in pre-training.
    """

    config: BlipTextConfig
    __call__: Callable[..., BlipTextOutput]

    def __init__(
        self,
        config: BlipTextConfig,
        add_pooling_layer: bool = True,
        *,
        shared: BlipTextModel | None = None,
        initialize: bool = True,
    ):
        super().__init__(config)
        self.embeddings: TextEmbeddings = TextEmbeddings(config) if shared is None else shared.embeddings
        self.encoder = TextEncoder(self.make_layer(index, shared) for index in range(config.num_hidden_layers))
        self.pooler = TextPooler(config) if add_pooling_layer else None
        if initialize:
            self.initialize()

    def make_layer(self, index: int, shared: BlipTextModel | None) -> TextLayer:
        """Make a layer, or one that has all but its self-attention from another model's layer."""
        config = self.config
        if shared is not None:
            layer = shared.encoder.layer[index]
            return TextLayer(config, layer.crossattention, layer)
        return TextLayer(config, TextAttention(config, config.encoder_hidden_size) if config.is_decoder else None)

    def check(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None,
        states: Tensor | None,
        states_mask: Tensor | None,
        start: int = 0,
    ) -> None:
        """Raise `ValueError` for texts that this model cannot take, after `start` tokens that it has read."""
        check_texts(inputs.shape, type_name(inputs), self.config, start)
        if inputs.ndim == 2 and inputs.is_cpu and not is_tracing():
            low, high = torch.aminmax(inputs)
            check_ids(int(low), int(high), self.config)
        if attention_mask is not None:
            check_mask(attention_mask.shape, inputs.shape, start)
        if states is not None:
            check_states(states.shape, None if states_mask is None else states_mask.shape, inputs.shape[0], self.config)

    @called_as_in_transformers
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        is_decoder: bool = False,
        cache: TextCache | None = None,
    ) -> BlipTextOutput:
        """Encode texts.

        Args:
            input_ids: Token ids (B, L).
            attention_mask: (B, L), or (B, L, L) for each token, 1 where to attend.
            position_ids: (B, L) or (L,); unless given, each text's real tokens are counted from 0.
            inputs_embeds: In place of input_ids, embeddings of words (B, L, W).
            encoder_hidden_states: What cross-attention reads, (B', S, encoder_hidden_size).
            encoder_attention_mask: (B', S), 1 where to attend.
            past_key_values: Those that a call returned for the tokens before these; then attention_mask is of all.
            use_cache: Return `past_key_values`.
            is_decoder: Let each token attend only to itself and those before it.
            output_hidden_states, output_attentions: Return these of all layers as well.
            cache: Continues texts; it brings masks, positions and encoder states (see `decoding.py`).

        Returns:
            `last_hidden_state` (B, L, W) and, with a pooling layer, `pooler_output` (B, W).

        Raises:
            ValueError: If ids are out of the vocabulary, a text is too long, or batches do not match.
        """
        inputs, start, grown = text_source(input_ids, inputs_embeds), 0, None
        if cache is not None:
            mask, states_mask, position_ids = cache.mask, cache.states_mask, cache.positions
        else:
            if use_cache or past_key_values is not None:
                past = past_layers(past_key_values, self.config.num_hidden_layers)
                grown = [GrowingCache(layer) for layer in past]
                start = grown[0].length
            self.check(inputs, attention_mask, encoder_hidden_states, encoder_attention_mask, start)
            mask, states_mask = None, None
            if is_decoder:  # (B or 1, 1, L, L)
                mask = causal_mask(attention_mask, inputs.shape[1], inputs.device, self.dtype, start)
            elif attention_mask is not None:
                mask = additive_mask(over_heads(attention_mask), self.dtype)  # (B, 1, 1 or L, L)
            if encoder_attention_mask is not None:
                states_mask = additive_mask(over_heads(encoder_attention_mask), self.dtype)  # (B', 1, 1, S)
        if encoder_hidden_states is not None:
            encoder_hidden_states = encoder_hidden_states.to(self.dtype)
        if position_ids is None:
            position_ids = token_positions(attention_mask, start + inputs.shape[1], inputs.device)[..., start:]
        output = self.encoder(
            self.embeddings(inputs, position_ids),
            mask,
            encoder_hidden_states,
            states_mask,
            grown if cache is None else cache.layers,
            output_hidden_states,
            output_attentions,
        )
        if grown is not None and use_cache:
            output.past_key_values = tuple(layer.past for layer in grown)
        if self.pooler is not None:
            output.pooler_output = self.pooler(output.last_hidden_state, attention_mask)
        return output
