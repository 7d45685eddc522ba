"""The text decoder: the text transformer with a language-modelling head.

Shapes: B texts, L tokens, W width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextConfig, BlipTextLMOutput
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_labels
from blip_tf.base import TFBlipPreTrainedModel
from blip_tf.decoding import DecodingGraphs
from blip_tf.nn import ACTIVATIONS, Layer, LayerNorm, Linear, TiedLinear, activated, wide
from blip_tf.text import TFBlipTextModel
from blip_tf.text_padding import begin_with


class LMTransform(Layer):
    """What the states (..., W) go through before the projection to the vocabulary."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def call(self, x: Tensor) -> Tensor:
        return self.LayerNorm(activated(self.dense, x, self.activation))


class LMPredictions(Layer):
    """States (..., W) -> logits (..., V). The decoder's weight is the word embeddings if tied, its bias that here."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.bias = self.add_weight(name="bias", shape=(config.vocab_size,), initializer="zeros")
        self.transform = LMTransform(config)
        tied = config.tie_word_embeddings
        self.decoder = TiedLinear() if tied else Linear(config.hidden_size, config.vocab_size, bias=False)

    def call(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class LMHead(Layer):
    """The language-modelling head: states (..., W) -> logits (..., V)."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.predictions = LMPredictions(config)

    def call(self, x: Tensor) -> Tensor:
        return self.predictions(x)


@keras.saving.register_keras_serializable("blip")
class TFBlipTextLMHeadModel(TFBlipPreTrainedModel):
    """The text decoder: predicts each next token. Source: the original's `BertLMHeadModel`.

    `shared` is an encoder from which it has everything but its self-attention and its head, as in pre-training.
    """

    config: BlipTextConfig

    def __init__(self, config: BlipTextConfig, *, shared: TFBlipTextModel | None = None, initialize: bool = True):
        super().__init__(config)
        self.bert = TFBlipTextModel(config, add_pooling_layer=False, shared=shared, initialize=False)
        self.cls = LMHead(config)
        self.tie_weights()
        self.decoding_graphs = DecodingGraphs(self)  # what generation runs, compiled when first used
        if initialize:
            self.initialize()

    def tie_weights(self) -> None:
        """Let the projection to the vocabulary have the word embeddings as its weight, unless it has its own."""
        head = self.cls.predictions
        head.decoder.bias = head.bias
        if self.config.tie_word_embeddings:
            head.decoder.weight = self.bert.embeddings.word_embeddings.weight

    @called_as_in_transformers
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        is_decoder: bool = True,
        reduction: str = "mean",
        training: bool = False,
    ) -> BlipTextLMOutput:
        """Predict the next token at each position; further arguments as of `TFBlipTextModel.call`.

        Args:
            labels: The tokens themselves (B, L), -100 where they do not count; they are shifted by one here. The first
                token of a text counts nowhere.
            use_cache: Return `past_key_values`; as `config.use_cache` says unless given, but not with labels.
            reduction: The loss is the mean over tokens ("mean"), their sum ("sum"), or each text's sum (B,) ("none").

        Returns:
            `logits` (B, L, V) and, with labels, `loss`: cross-entropy with `config.label_smoothing`.
        """
        if use_cache is None:
            use_cache = self.config.use_cache and is_decoder
        if labels is not None or (training and self.is_gradient_checkpointing):
            use_cache = False
        output = self.bert(
            input_ids, attention_mask, position_ids, inputs_embeds, encoder_hidden_states, encoder_attention_mask,
            past_key_values=past_key_values, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, is_decoder=is_decoder, training=training,
        )  # fmt: skip
        logits = self.cls(output.last_hidden_state)
        if labels is not None:  # nothing predicts the first token, even where padding comes before it
            labels = begin_with(-100, labels, attention_mask)
        return BlipTextLMOutput(
            loss=None if labels is None else next_token_loss(logits, labels, self.config.label_smoothing, reduction),
            logits=logits,
            past_key_values=output.past_key_values,
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
