"""The text transformer (BERT with cross-attention), as encoder and as decoder with a language-modelling head.

Shapes: B texts, L tokens, W width, H heads, D = W / H, V vocabulary, S encoder states (image tokens) of B' pictures.
One picture may serve several texts: the texts of a picture lie next to each other, and B is a multiple of B'.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextConfig, BlipTextLMOutput, BlipTextOutput
from blip_core.checks import check_ids, check_labels, check_mask, check_states, check_texts, text_source
from blip_tf.base import TFBlipPreTrainedModel, checkpointed, type_name
from blip_tf.decoding import DecodingGraphs, LayerCache, TextCache
from blip_tf.nn import (
    ACTIVATIONS,
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    activated,
    additive_mask,
    causal_mask,
    dropout,
    linear,
    over_heads,
    sizes,
    wide,
)  # fmt: skip
from blip_tf.text_attention import TextAttention


class TextMLP(Layer):
    """The feed-forward network of a block, with its residual connection and LayerNorm."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.hidden_dropout = config.hidden_dropout_prob
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        hidden = self.fc2(activated(self.fc1, x, self.activation))
        return self.norm(x + dropout(hidden, self.hidden_dropout, training))


class TextBlock(Layer):
    """A post-norm transformer block: self-attention, cross-attention where encoder states are given, feed-forward."""

    def __init__(self, config: BlipTextConfig, cross_attention: Layer | None, mlp: TextMLP):
        super().__init__()
        self.attention = TextAttention(config, config.hidden_size)
        self.cross_attention: Any = cross_attention
        self.mlp = mlp

    def call(
        self,
        x: Tensor,
        score_mask: Tensor | None = None,
        states: Tensor | None = None,
        states_mask: Tensor | None = None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        options = {"output_attentions": output_attentions, "training": training}
        keys_values = self.attention.keys_values(x)
        if cache is not None:
            keys_values = cache.append(*keys_values)
        x, probabilities = self.attention(x, keys_values=keys_values, score_mask=score_mask, **options)
        cross_probabilities = None
        if cache is not None or states is not None:
            keys_values = cache.cross if cache is not None else self.cross_attention.keys_values(states)
            x, cross_probabilities = self.cross_attention(x, keys_values=keys_values, score_mask=states_mask, **options)
        return self.mlp(x, training=training), probabilities, cross_probabilities


@keras.saving.register_keras_serializable("blip")
class TFBlipTextModel(TFBlipPreTrainedModel):
    """Texts -> hidden states, by themselves or grounded in encoder states. Source: the original's `BertModel`."""

    config: BlipTextConfig

    def __init__(
        self,
        config: BlipTextConfig,
        add_pooling_layer: bool = True,
        *,
        shared: TFBlipTextModel | None = None,
        initialize: bool = True,
    ):
        super().__init__(config)
        self.word_embeddings, self.position_embeddings, self.embedding_norm = self.embeddings(shared)
        self.blocks = [self.make_block(layer, shared) for layer in range(config.num_hidden_layers)]
        self.pooler = Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        if initialize:
            self.initialize()

    def embeddings(self, shared: TFBlipTextModel | None) -> tuple[Embedding, Embedding, LayerNorm]:
        """New embeddings of words and of positions and their LayerNorm, or those of another model."""
        if shared is not None:
            return shared.word_embeddings, shared.position_embeddings, shared.embedding_norm
        config = self.config
        words = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        positions = Embedding(config.max_position_embeddings, config.hidden_size)
        return words, positions, LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def make_block(self, layer: int, shared: TFBlipTextModel | None) -> TextBlock:
        """A new block, or one that has its own self-attention and all else from another model's block."""
        config = self.config
        if shared is not None:
            block = shared.blocks[layer]
            return TextBlock(config, block.cross_attention, block.mlp)
        cross = TextAttention(config, config.encoder_hidden_size) if config.is_decoder else None
        return TextBlock(config, cross, TextMLP(config))

    def check(
        self, inputs: Tensor, attention_mask: Tensor | None, states: Tensor | None, states_mask: Tensor | None
    ) -> None:
        """Raise `ValueError` for texts that this model cannot take."""
        check_texts(inputs.shape, type_name(inputs), self.config)
        if len(inputs.shape) == 2 and tf.executing_eagerly():
            check_ids(int(tf.reduce_min(inputs)), int(tf.reduce_max(inputs)), self.config)
        if attention_mask is not None:
            check_mask(attention_mask.shape, inputs.shape)
        if states is not None:
            check_states(states.shape, None if states_mask is None else states_mask.shape, inputs.shape[0], self.config)

    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        is_decoder: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        cache: TextCache | None = None,
        training: bool = False,
    ) -> BlipTextOutput:
        """Encode token ids (B, L), or `inputs_embeds` (B, L, W) in their place.

        `attention_mask` (B, L) or (B, L, L) is 1 where to attend; `is_decoder` lets each token see only those before
        it. `encoder_hidden_states` (B', S, encoder_hidden_size) are what cross-attention reads, their mask (B', S).
        `cache` continues texts (see `decoding.py`); it brings the masks, positions and encoder states itself.
        Returns states (B, L, W).
        Raises `ValueError` for ids out of the vocabulary (not where a graph is traced), texts that are too long, and
        batches that do not match.
        """
        inputs = text_source(input_ids, inputs_embeds)
        length = sizes(inputs)[1]
        if cache is not None:
            mask, states_mask, position_ids = cache.mask, cache.states_mask, cache.positions
        else:
            self.check(inputs, attention_mask, encoder_hidden_states, encoder_attention_mask)
            mask, states_mask = None, None
            if is_decoder:
                mask = causal_mask(attention_mask, length, self.compute_dtype)  # (B or 1, 1, L, L)
            elif attention_mask is not None:
                mask = additive_mask(over_heads(attention_mask), self.compute_dtype)  # (B, 1, 1 or L, L)
            if encoder_attention_mask is not None:
                states_mask = additive_mask(over_heads(encoder_attention_mask), self.compute_dtype)  # (B', 1, 1, S)
        if encoder_hidden_states is not None:
            encoder_hidden_states = tf.cast(encoder_hidden_states, self.compute_dtype)
        if position_ids is None:
            position_ids = tf.range(length)
        x = self.word_embeddings(inputs) if inputs_embeds is None else tf.cast(inputs, self.compute_dtype)  # (B, L, W)
        x = self.embedding_norm(x + self.position_embeddings(position_ids))
        x = dropout(x, self.config.hidden_dropout_prob, training)
        options = {
            "score_mask": mask, "states": encoder_hidden_states, "states_mask": states_mask,
            "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        hidden_states, attentions, cross_attentions = [x], [], []
        for layer, block in enumerate(self.blocks):
            x, own, cross = checkpointed(self, block, x, cache=cache and cache.layers[layer], **options)
            if output_hidden_states:
                hidden_states.append(x)
            attentions.append(own)
            cross_attentions.append(cross)
        return BlipTextOutput(
            last_hidden_state=x,
            pooler_output=tf.tanh(self.pooler(x[:, 0])) if self.pooler is not None else None,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions and cross is not None else None,
        )

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "add_pooling_layer": self.pooler is not None}


class LMHead(Layer):
    """Hidden states (..., W) -> logits (..., V), through the word embeddings, which it shares."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = self.add_weight(name="bias", shape=(config.vocab_size,), initializer="zeros")

    def call(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        return linear(self.norm(activated(self.dense, x, self.activation)), word_embeddings, self.bias, transpose=True)


@keras.saving.register_keras_serializable("blip")
class TFBlipTextLMHeadModel(TFBlipPreTrainedModel):
    """The text decoder: predicts each next token. Source: the original's `BertLMHeadModel`.

    `shared` is an encoder from which it has everything but its self-attention and its head, as in pre-training.
    """

    config: BlipTextConfig

    def __init__(self, config: BlipTextConfig, *, shared: TFBlipTextModel | None = None, initialize: bool = True):
        super().__init__(config)
        self.bert = TFBlipTextModel(config, add_pooling_layer=False, shared=shared, initialize=False)
        self.lm_head = LMHead(config)
        self.decoding_graphs = DecodingGraphs(self)  # what generation runs, compiled when first used
        if initialize:
            self.initialize()

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Hidden states (..., W) -> logits (..., V)."""
        return self.lm_head(hidden_states, word_embeddings=self.bert.word_embeddings.weight)

    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        is_decoder: bool = True,
        reduction: str = "mean",
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipTextLMOutput:
        """Predict the next token at each position; arguments as `TFBlipTextModel.call`.

        `labels` (B, L) are the tokens themselves, -100 where they do not count; the shift by one is done here. The
        loss is the cross-entropy with `config.label_smoothing`: its mean over tokens, or with `reduction="none"` its
        sum over each text's tokens, (B,), or with "sum" over all of them. Returns logits (B, L, V).
        """
        output = self.bert(
            input_ids, attention_mask, position_ids, inputs_embeds, encoder_hidden_states, encoder_attention_mask,
            is_decoder=is_decoder, output_hidden_states=output_hidden_states, output_attentions=output_attentions,
            training=training,
        )  # fmt: skip
        logits = self.logits(output.last_hidden_state)
        return BlipTextLMOutput(
            loss=None if labels is None else next_token_loss(logits, labels, self.config.label_smoothing, reduction),
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            cross_attentions=output.cross_attentions,
        )


def next_token_loss(logits: Tensor, labels: Tensor, label_smoothing: float, reduction: str) -> Tensor:
    """Cross-entropy of each token (B, L) under the logits (B, L, V) of the position before it, in float32."""
    check_labels(labels.shape, logits.shape[:2], reduction)
    predicted, target = wide(logits[:, :-1]), labels[:, 1:]  # (B, L - 1, V), (B, L - 1)
    real = target != -100
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(real, target, 0), predicted)
    if label_smoothing:
        uniform = tf.reduce_logsumexp(predicted, axis=-1) - tf.reduce_mean(predicted, axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    loss = tf.where(real, loss, 0)
    if reduction == "none":
        return tf.reduce_sum(loss, axis=1)
    return tf.reduce_sum(loss) / (tf.reduce_sum(tf.cast(real, loss.dtype)) if reduction == "mean" else 1)
