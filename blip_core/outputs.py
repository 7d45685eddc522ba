"""What the models return: small dataclasses that also work as mappings and tuples.

Tensors are those of the engine that ran. A field that was not computed is None; it is left out of the keys, the
indices and the tuple. `tokens` are a picture's patches and its class token, `length` is that of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

Tensor = Any
"""`torch.Tensor` or `tf.Tensor`."""


@dataclass
class ModelOutput:
    """A dataclass of tensors that is also a mapping and a tuple.

    Example:
        >>> output = BlipTextScoresOutput(log_probs=1.0)
        >>> output.log_probs, output["log_probs"], output[0], output.to_tuple()
        (1.0, 1.0, 1.0, (1.0,))
    """

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields that are not None, in order."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def values(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Return names and fields that are not None, in order."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order; outputs inside become tuples, too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())

    def map(self, function: Callable[[Any], Any]) -> Self:
        """Return a copy with the function applied to every tensor, also in tuples and outputs inside."""
        return type(self)(**{name: _map(function, value) for name, value in self.items()})

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by its name, or the default where it is None or missing."""
        return getattr(self, name) if name in self else default

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self:
                raise KeyError(f"{type(self).__name__} has no {key!r}; it has {', '.join(self.keys())}.")
            return getattr(self, key)
        return self.values()[key]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, ModelOutput):
        return value.map(function)
    return tuple(_map(function, item) for item in value) if isinstance(value, tuple) else function(value)


@dataclass
class BlipVisionOutput(ModelOutput):
    """What the vision transformer returns.

    Attributes:
        last_hidden_state: (batch, tokens, width), after the final LayerNorm.
        pooler_output: (batch, width), that LayerNorm applied once more to the class token.
        hidden_states: The patch embedding and the output of each block, before the final LayerNorm.
        attentions: (batch, heads, tokens, tokens) of each block.
    """

    last_hidden_state: Tensor = None
    pooler_output: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipTextOutput(ModelOutput):
    """What the text transformer returns.

    Attributes:
        last_hidden_state: (batch, length, width).
        pooler_output: (batch, width), where the model has a pooler.
        hidden_states: The embeddings and the output of each layer.
        attentions: (batch, heads, length, keys) of each layer.
        cross_attentions: (batch, heads, length, encoder states) of each layer.
    """

    last_hidden_state: Tensor = None
    pooler_output: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipTextLMOutput(ModelOutput):
    """What the text decoder with its language-modelling head returns.

    Attributes:
        loss: Scalar, or (batch,) with `reduction="none"`.
        logits: (batch, length, vocabulary).
        hidden_states, attentions, cross_attentions: As in `BlipTextOutput`.
    """

    loss: Tensor = None
    logits: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipOutput(ModelOutput):
    """What `BlipModel` returns.

    Attributes:
        loss: Contrastive loss, scalar.
        logits_per_image: (images, texts), scaled cosine similarities.
        logits_per_text: (texts, images), its transpose.
        text_embeds, image_embeds: (batch, projection_dim), L2-normalised.
        text_model_output, vision_model_output: What the two transformers returned.
    """

    loss: Tensor = None
    logits_per_image: Tensor = None
    logits_per_text: Tensor = None
    text_embeds: Tensor = None
    image_embeds: Tensor = None
    text_model_output: BlipTextOutput | None = None
    vision_model_output: BlipVisionOutput | None = None


@dataclass
class BlipForConditionalGenerationOutput(ModelOutput):
    """What a captioner returns.

    Attributes:
        loss: Language-modelling loss, scalar.
        logits: (batch, length, vocabulary).
        image_embeds: (batch, tokens, width), to be used again in place of the picture.
        last_hidden_state, hidden_states, attentions: The vision encoder's.
        decoder_hidden_states, decoder_attentions, cross_attentions: The text decoder's.
    """

    loss: Tensor = None
    logits: Tensor = None
    image_embeds: Tensor = None
    last_hidden_state: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipForQuestionAnsweringOutput(ModelOutput):
    """What a question answerer returns.

    Attributes:
        loss: Language-modelling loss, scalar.
        image_embeds: (batch, tokens, width).
        last_hidden_state, hidden_states, attentions: The vision encoder's.
        logits: (answers, length, vocabulary).
        question_embeds: (batch, length, text width), the states that the answer decoder attends to.
        decoder_hidden_states, decoder_attentions, cross_attentions: The answer decoder's.
    """

    loss: Tensor = None
    image_embeds: Tensor = None
    last_hidden_state: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    logits: Tensor = None
    question_embeds: Tensor = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipForImageTextRetrievalOutput(ModelOutput):
    """What a matching model returns.

    Attributes:
        itm_score: With the matching head logits (pairs, 2), index 1 meaning "they match"; in training (3 batch, 2) of
            the matching pairs, of the texts with wrong pictures and of the pictures with wrong texts. Without the head
            cosine similarities (images, texts).
        loss: In training `loss_itc` + `loss_itm`, scalars.
        image_embeds: (batch, tokens, width).
        last_hidden_state, hidden_states, vision_pooler_output, attentions: The vision encoder's.
        question_embeds: (texts, length, text width), the text encoder's last states.
        text_hidden_states, text_attentions, cross_attentions: The text encoder's.
    """

    itm_score: Tensor = None
    loss: Tensor = None
    loss_itc: Tensor = None
    loss_itm: Tensor = None
    image_embeds: Tensor = None
    last_hidden_state: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    vision_pooler_output: Tensor = None
    attentions: tuple[Tensor, ...] | None = None
    question_embeds: Tensor = None
    text_hidden_states: tuple[Tensor, ...] | None = None
    text_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipFeaturesOutput(ModelOutput):
    """Features by token, of which the first stands for the whole. Those at the padding of a text mean nothing.

    Attributes:
        image_embeds: (pictures, tokens, vision width), of pictures alone.
        image_embeds_proj: (pictures, tokens, image_text_hidden_size), their projections, L2-normalised; those of the
            first token can be compared with the texts'.
        text_embeds: (texts, length, text width), of texts alone.
        text_embeds_proj: (texts, length, image_text_hidden_size), their projections, L2-normalised.
        multimodal_embeds: (texts, length, text width), of texts grounded in pictures.
    """

    image_embeds: Tensor = None
    image_embeds_proj: Tensor = None
    text_embeds: Tensor = None
    text_embeds_proj: Tensor = None
    multimodal_embeds: Tensor = None


@dataclass
class BlipForNLVROutput(ModelOutput):
    """What the model that judges a sentence on two pictures returns.

    Attributes:
        loss: Cross-entropy, scalar.
        logits: (batch, 2), index 1 meaning "true".
        image_embeds: (batch, 2, tokens, width).
        hidden_states, attentions: The vision encoder's, of 2 x batch pictures.
        text_hidden_states, text_attentions: The text encoder's.
        cross_attentions: (batch, heads, length, keys); keys are the tokens of the first picture, then of the second.
    """

    loss: Tensor = None
    logits: Tensor = None
    image_embeds: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    text_hidden_states: tuple[Tensor, ...] | None = None
    text_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    Attributes:
        loss: `loss_itc` + `loss_itm` + `loss_lm`, scalars.
        itm_score: (3 batch, 2), as in `BlipForImageTextRetrievalOutput`.
        logits: (batch, length, vocabulary) of the decoder.
        image_embeds: (batch, tokens, width).
    """

    loss: Tensor = None
    loss_itc: Tensor = None
    loss_itm: Tensor = None
    loss_lm: Tensor = None
    itm_score: Tensor = None
    logits: Tensor = None
    image_embeds: Tensor = None


@dataclass
class BlipTextScoresOutput(ModelOutput):
    """How likely texts are; items are pictures, or pictures with questions.

    Attributes:
        log_probs: float32 (items, texts), natural logarithm, the end token included.
        token_log_probs: float32 (items, texts, length - 1), of each token after the first; NaN after the end.
    """

    log_probs: Tensor = None
    token_log_probs: Tensor = None


@dataclass
class BlipRankedAnswersOutput(ModelOutput):
    """Answers of a list, best first.

    Attributes:
        best: int64 (questions,), the index of the best answer.
        indices: int64 (questions, k), those of all candidates.
        scores: (questions, k), minus the training loss of each, by which they are ordered.
        log_probs: (questions, k), their log-probabilities.
    """

    best: Tensor = None
    indices: Tensor = None
    scores: Tensor = None
    log_probs: Tensor = None


OUTPUTS = (
    BlipVisionOutput,
    BlipTextOutput,
    BlipTextLMOutput,
    BlipOutput,
    BlipForConditionalGenerationOutput,
    BlipForQuestionAnsweringOutput,
    BlipForImageTextRetrievalOutput,
    BlipFeaturesOutput,
    BlipForNLVROutput,
    BlipForPreTrainingOutput,
    BlipTextScoresOutput,
    BlipRankedAnswersOutput,
)
"""All classes of outputs, which each backend registers as pytrees."""
