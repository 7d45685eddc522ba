"""What the models return: small dataclasses that also work as mappings and tuples.

Tensors are those of the engine that ran. A field that was not computed is None; it is left out of the keys, the
indices and the tuple. `tokens` are a picture's patches and its class token, `length` is that of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Self

from blip_core.validators import describe

Tensor = Any
"""`torch.Tensor` or `tf.Tensor`."""
Tensors = tuple[Tensor, ...] | None


def output(meaning: str) -> Any:
    """Return a dataclass field that is None by default; its meaning goes into the docstring of the class."""
    return field(default=None, metadata={"meaning": meaning})


@dataclass
class ModelOutput:
    """A dataclass of tensors that is also a mapping and a tuple.

    Example:
        >>> scores = BlipTextScoresOutput(log_probs=1.0)
        >>> scores.log_probs, scores["log_probs"], scores[0], scores.to_tuple()
        (1.0, 1.0, 1.0, (1.0,))
    """

    def __init_subclass__(cls) -> None:
        describe(cls, "Attributes")

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
        """Return a copy with the function applied to every tensor, also in tuples and outputs inside.

        Args:
            function: Called with each tensor, such as `lambda tensor: tensor.cpu()`.
        """
        return type(self)(**{name: _map(function, value) for name, value in self.items()})

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by its name.

        Args:
            name: The field.
            default: Returned where the field is None or missing.
        """
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
    """What the vision transformer returns."""

    last_hidden_state: Tensor = output("(batch, tokens, width), after the final LayerNorm.")
    pooler_output: Tensor = output("(batch, width), that LayerNorm applied once more to the class token.")
    hidden_states: Tensors = output("The patch embedding and the output of each block, before the final LayerNorm.")
    attentions: Tensors = output("(batch, heads, tokens, tokens) of each block.")


@dataclass
class BlipTextOutput(ModelOutput):
    """What the text transformer returns."""

    last_hidden_state: Tensor = output("(batch, length, width).")
    pooler_output: Tensor = output("(batch, width), where the model has a pooler.")
    past_key_values: Any = output("With `use_cache`, for each layer keys and values of the text, and of the states.")
    hidden_states: Tensors = output("The embeddings and the output of each layer.")
    attentions: Tensors = output("(batch, heads, length, keys) of each layer.")
    cross_attentions: Tensors = output("(batch, heads, length, encoder states) of each layer.")


@dataclass
class BlipTextLMOutput(ModelOutput):
    """What the text decoder with its language-modelling head returns."""

    loss: Tensor = output('Scalar, or (batch,) with `reduction="none"`.')
    logits: Tensor = output("(batch, length, vocabulary).")
    past_key_values: Any = output("As in `BlipTextOutput`.")
    hidden_states: Tensors = output("As in `BlipTextOutput`.")
    attentions: Tensors = output("As in `BlipTextOutput`.")
    cross_attentions: Tensors = output("As in `BlipTextOutput`.")


@dataclass
class BlipOutput(ModelOutput):
    """What `BlipModel` returns."""

    loss: Tensor = output("Contrastive loss, scalar.")
    logits_per_image: Tensor = output("(images, texts), scaled cosine similarities.")
    logits_per_text: Tensor = output("(texts, images), its transpose.")
    text_embeds: Tensor = output("(texts, projection_dim), L2-normalised.")
    image_embeds: Tensor = output("(images, projection_dim), L2-normalised.")
    text_model_output: BlipTextOutput | None = output("What the text transformer returned.")
    vision_model_output: BlipVisionOutput | None = output("What the vision transformer returned.")


@dataclass
class BlipForConditionalGenerationOutput(ModelOutput):
    """What a captioner returns."""

    loss: Tensor = output("Language-modelling loss, scalar.")
    logits: Tensor = output("(batch, length, vocabulary).")
    image_embeds: Tensor = output("(batch, tokens, width), which can be passed again in place of the picture.")
    last_hidden_state: Tensor = output("As `image_embeds`.")
    hidden_states: Tensors = output("The vision encoder's.")
    attentions: Tensors = output("The vision encoder's.")
    decoder_hidden_states: Tensors = output("The text decoder's.")
    decoder_attentions: Tensors = output("The text decoder's.")
    cross_attentions: Tensors = output("The text decoder's.")


@dataclass
class BlipForQuestionAnsweringOutput(ModelOutput):
    """What a question answerer returns."""

    loss: Tensor = output("Language-modelling loss, scalar.")
    image_embeds: Tensor = output("(batch, tokens, width).")
    last_hidden_state: Tensor = output("As `image_embeds`.")
    hidden_states: Tensors = output("The vision encoder's.")
    attentions: Tensors = output("The vision encoder's.")
    logits: Tensor = output("(answers, length, vocabulary).")
    question_embeds: Tensor = output("(batch, length, text width), the states that the answer decoder attends to.")
    decoder_hidden_states: Tensors = output("The answer decoder's.")
    decoder_attentions: Tensors = output("The answer decoder's.")
    cross_attentions: Tensors = output("The answer decoder's.")


@dataclass
class BlipForImageTextRetrievalOutput(ModelOutput):
    """What a matching model returns.

    `itm_score` holds logits (pairs, 2) of the matching head, index 1 meaning "they match". In training there are
    3 x batch pairs: the matching ones, the texts with wrong pictures, and the pictures with wrong texts. Without the
    head it holds cosine similarities (images, texts).
    """

    itm_score: Tensor = output("See above.")
    loss: Tensor = output("In training `loss_itc` + `loss_itm`, or with labels of pairs their cross-entropy, scalars.")
    last_hidden_state: Tensor = output("As `image_embeds`.")
    hidden_states: Tensors = output("The vision encoder's.")
    attentions: Tensors = output("The vision encoder's.")
    question_embeds: Tensor = output("(texts, length, text width), the text encoder's last states.")
    loss_itc: Tensor = output("Contrastive loss.")
    loss_itm: Tensor = output("Matching loss.")
    image_embeds: Tensor = output("(batch, tokens, width).")
    vision_pooler_output: Tensor = output("The vision encoder's.")
    text_hidden_states: Tensors = output("The text encoder's.")
    text_attentions: Tensors = output("The text encoder's.")
    cross_attentions: Tensors = output("The text encoder's.")


@dataclass
class BlipFeaturesOutput(ModelOutput):
    """Features of every token; the first token's stand for the whole. Those at the padding of a text mean nothing.

    The projections of a picture's and a text's first token can be compared with each other.
    """

    image_embeds: Tensor = output("(pictures, tokens, vision width), of pictures alone.")
    image_embeds_proj: Tensor = output("(pictures, tokens, image_text_hidden_size), projected and L2-normalised.")
    text_embeds: Tensor = output("(texts, length, text width), of texts alone.")
    text_embeds_proj: Tensor = output("(texts, length, image_text_hidden_size), projected and L2-normalised.")
    multimodal_embeds: Tensor = output("(texts, length, text width), of texts grounded in pictures.")


@dataclass
class BlipForNLVROutput(ModelOutput):
    """What the model that judges a sentence on two pictures returns.

    Keys of `cross_attentions` are the tokens of the first picture, then those of the second.
    """

    loss: Tensor = output("Cross-entropy, scalar.")
    logits: Tensor = output('(batch, 2), index 1 meaning "true".')
    image_embeds: Tensor = output("(batch, 2, tokens, width).")
    hidden_states: Tensors = output("The vision encoder's, of 2 x batch pictures.")
    attentions: Tensors = output("The vision encoder's, of 2 x batch pictures.")
    text_hidden_states: Tensors = output("The text encoder's.")
    text_attentions: Tensors = output("The text encoder's.")
    cross_attentions: Tensors = output("(batch, heads, length, keys) of each layer.")


@dataclass
class BlipForClassificationOutput(ModelOutput):
    """What the model that sorts texts with pictures into classes returns."""

    loss: Tensor = output("Cross-entropy, in part with the classes of the momentum encoders, scalar.")
    logits: Tensor = output("(batch, num_labels).")
    image_embeds: Tensor = output("(batch, tokens, width).")
    hidden_states: Tensors = output("The vision encoder's.")
    attentions: Tensors = output("The vision encoder's.")
    text_hidden_states: Tensors = output("The text encoder's.")
    text_attentions: Tensors = output("The text encoder's.")
    cross_attentions: Tensors = output("(batch, heads, length, tokens) of each layer.")


@dataclass
class BlipForPreTrainingOutput(ModelOutput):
    """What pre-training returns."""

    loss: Tensor = output("`loss_itc` + `loss_itm` + `loss_lm`, scalars.")
    loss_itc: Tensor = output("Contrastive loss.")
    loss_itm: Tensor = output("Matching loss.")
    loss_lm: Tensor = output("Language-modelling loss.")
    itm_score: Tensor = output("(3 x batch, 2), as in `BlipForImageTextRetrievalOutput`.")
    logits: Tensor = output("(batch, length, vocabulary) of the decoder.")
    image_embeds: Tensor = output("(batch, tokens, width).")


@dataclass
class BlipTextScoresOutput(ModelOutput):
    """How likely texts are, for each item: a picture, or a picture with a question. Logarithms are natural."""

    log_probs: Tensor = output("float32 (items, texts), the end token included.")
    token_log_probs: Tensor = output("float32 (items, texts, length - 1), each token after the first; NaN at padding.")


@dataclass
class BlipRankedAnswersOutput(ModelOutput):
    """Answers of a list, best first."""

    best: Tensor = output("int64 (questions,), the index of the best answer.")
    indices: Tensor = output("int64 (questions, k), those of all candidates.")
    scores: Tensor = output("(questions, k), minus the training loss of each, by which they are ordered.")
    log_probs: Tensor = output("(questions, k), their log-probabilities.")


OUTPUTS = tuple(
    found for found in list(globals().values()) if isinstance(found, type) and ModelOutput in found.__bases__
)
"""All classes of outputs, which each backend registers as pytrees."""
