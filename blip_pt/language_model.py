"""The text decoder: the text transformer with a language-modelling head.

Shapes: B texts, L tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip_core import BlipTextConfig, BlipTextLMOutput
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_labels
from blip_pt.base import BlipPreTrainedModel
from blip_pt.nn import ACTIVATIONS, LayerNorm, Linear, activated, wide
from blip_pt.text import BlipTextModel
from blip_pt.text_padding import begin_with


class LMTransform(nn.Module):
    """What the states (..., W) go through before the projection to the vocabulary."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(activated(self.dense, x, self.activation))


class LMPredictions(nn.Module):
    """States (..., W) -> logits (..., V). The decoder's weight is the word embeddings if tied, its bias that here."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.transform = LMTransform(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class LMHead(nn.Module):
    """The language-modelling head: states (..., W) -> logits (..., V)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.predictions = LMPredictions(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictions(x)


class BlipTextLMHeadModel(BlipPreTrainedModel):
    """The text decoder: predicts each next token. Source: the original's `BertLMHeadModel`.

    `shared` is an encoder from which it has everything but its self-attention and its head, as in pre-training.
    """

    config: BlipTextConfig
    __call__: Callable[..., BlipTextLMOutput]

    def __init__(self, config: BlipTextConfig, *, shared: BlipTextModel | None = None, initialize: bool = True):
        super().__init__(config)
        self.bert = BlipTextModel(config, add_pooling_layer=False, shared=shared, initialize=False)
        self.cls = LMHead(config)
        self.tie_weights()
        if initialize:
            self.initialize()

    def tie_weights(self) -> None:
        """Let the projection to the vocabulary have the word embeddings as its weight, unless it has its own."""
        head = self.cls.predictions
        head.decoder.bias = head.bias
        if self.config.tie_word_embeddings:
            head.decoder.weight = self.bert.embeddings.word_embeddings.weight

    @called_as_in_transformers
    def forward(
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
    ) -> BlipTextLMOutput:
        """Predict the next token at each position; further arguments as of `BlipTextModel.forward`.

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
        if labels is not None or (self.training and self.is_gradient_checkpointing):
            use_cache = False
        output = self.bert(
            input_ids, attention_mask, position_ids, inputs_embeds, encoder_hidden_states, encoder_attention_mask,
            past_key_values, use_cache, output_attentions, output_hidden_states, is_decoder,
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
    predicted, target = wide(logits[:, :-1]).flatten(0, 1), labels[:, 1:].flatten()
    loss = F.cross_entropy(predicted, target, reduction=reduction, label_smoothing=label_smoothing)
    return loss.view(labels.shape[0], -1).sum(1) if reduction == "none" else loss
