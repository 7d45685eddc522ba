"""What the models return: small dataclasses that also work as mappings and tuples.

Tensors are those of the framework that ran. A field that was not computed is None and is left out of the keys, the
indices and the tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

Tensor = Any
"""`torch.Tensor` or `tf.Tensor`."""


@dataclass
class ModelOutput:
    """A dataclass of tensors with `output.name`, `output["name"]`, `output[i]`, `output[:2]` and `to_tuple()`."""

    def keys(self) -> tuple[str, ...]:
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order; outputs inside become tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())

    def map(self, function: Callable[[Any], Any]) -> Self:
        """A copy with the function applied to every tensor, those in tuples and in outputs inside included."""
        return type(self)(**{name: _map(function, value) for name, value in self.items()})

    def get(self, name: str, default: Any = None) -> Any:
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
    """`last_hidden_state` (batch, tokens, width) after the final LayerNorm; `pooler_output` (batch, width) is that
    LayerNorm applied once more to the class token. `hidden_states`: the patch embedding and each block's output,
    before the final LayerNorm. `attentions`: one (batch, heads, tokens, tokens) of each block."""

    last_hidden_state: Tensor = None
    pooler_output: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipTextOutput(ModelOutput):
    """`last_hidden_state` (batch, length, width), `pooler_output` (batch, width) where the model has a pooler,
    `hidden_states` (embeddings and each layer), `attentions` and `cross_attentions`, one of each layer: (batch, heads,
    length, keys)."""

    last_hidden_state: Tensor = None
    pooler_output: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipTextLMOutput(ModelOutput):
    """`logits` (batch, length, vocabulary); `loss` a scalar, or (batch,) with `reduction="none"`."""

    loss: Tensor = None
    logits: Tensor = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BlipOutput(ModelOutput):
    """`logits_per_image` (images, texts) = scaled cosine similarities, `logits_per_text` its transpose; `text_embeds`
    and `image_embeds` (batch, projection_dim), L2-normalised."""

    loss: Tensor = None
    logits_per_image: Tensor = None
    logits_per_text: Tensor = None
    text_embeds: Tensor = None
    image_embeds: Tensor = None
    text_model_output: BlipTextOutput | None = None
    vision_model_output: BlipVisionOutput | None = None


@dataclass
class BlipForConditionalGenerationOutput(ModelOutput):
    """`loss` scalar, `logits` (batch, length, vocabulary), `image_embeds` (batch, tokens, width) to use again in place
    of the picture; `hidden_states` and `attentions` are the vision encoder's, those with `decoder_` the text
    decoder's."""

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
    """`loss` scalar, `logits` (answers, length, vocabulary), `image_embeds` (batch, tokens, width), `question_embeds`
    (batch, length, text width); `hidden_states` and `attentions` are the vision encoder's."""

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
    """`itm_score`: with the matching head, logits (pairs, 2) of which index 1 is "they match"; without, the cosine
    similarities (images, texts). `question_embeds` (texts, length, text width): the text encoder's states;
    `hidden_states` and `attentions` are the vision encoder's. In training `loss` = `loss_itc` + `loss_itm`, and
    `itm_score` (3 batch, 2) has the logits of the matching pairs, of the texts with wrong pictures and of the pictures
    with wrong texts."""

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
    """Features by token, of which the first stands for the whole: `image_embeds` (pictures, tokens, vision width) and
    `text_embeds` (texts, length, text width) of pictures and of texts alone; `image_embeds_proj` and `text_embeds_proj`
    (..., image_text_hidden_size) are their projections, L2-normalised, of which the first tokens' can be compared;
    `multimodal_embeds` (texts, length, text width) of texts grounded in pictures. What stands at the padding of a text
    means nothing."""

    image_embeds: Tensor = None
    image_embeds_proj: Tensor = None
    text_embeds: Tensor = None
    text_embeds_proj: Tensor = None
    multimodal_embeds: Tensor = None


@dataclass
class BlipForNLVROutput(ModelOutput):
    """`loss` scalar, `logits` (batch, 2) of which index 1 is "true", `image_embeds` (batch, 2, tokens, width);
    `hidden_states` and `attentions` are the vision encoder's, of 2 x batch pictures. `cross_attentions` (batch, heads,
    length, keys) run over the tokens of the first picture, then of the second."""

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
    """`loss` = `loss_itc` + `loss_itm` + `loss_lm`, scalars; `itm_score` (3 batch, 2) as in fine-tuning for retrieval,
    `logits` (batch, length, vocabulary) of the decoder, `image_embeds` (batch, tokens, width)."""

    loss: Tensor = None
    loss_itc: Tensor = None
    loss_itm: Tensor = None
    loss_lm: Tensor = None
    itm_score: Tensor = None
    logits: Tensor = None
    image_embeds: Tensor = None


@dataclass
class BlipTextScoresOutput(ModelOutput):
    """How likely texts are: `log_probs` (items, texts) in sum, `token_log_probs` (items, texts, length - 1) of each
    token after the first, NaN behind the end. Items are pictures, or pictures with questions; float32, natural
    logarithm, the end token included."""

    log_probs: Tensor = None
    token_log_probs: Tensor = None


@dataclass
class BlipRankedAnswersOutput(ModelOutput):
    """Answers of a list, best first: `best` int64 (questions,) is the number of the best one, `indices` (questions, k)
    those of all candidates; `scores` (questions, k) are minus the training loss of each, by which they are ordered, and
    `log_probs` (questions, k) their log-probabilities."""

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
"""All classes of outputs; each backend registers them as pytrees."""
