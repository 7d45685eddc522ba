"""The model classes: of which parts of the weight table each consists, and what else sets it apart.

To add a head, add a row to `HEADS`. Loading, conversion, inspection and parity read that row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.engines import engine_of
from blip_core.parameters.table import (
    CLASS_HEAD,
    CROSS,
    CROSS_PAIR,
    LM_HEAD,
    MERGE,
    MOMENTUM_CLASS_HEAD,
    MOMENTUM_PROJECTIONS,
    NLVR_HEAD,
    POOLER,
    PRETRAINING_QUEUE,
    PROJECTIONS,
    QUEUES,
    RETRIEVAL,
    RETRIEVAL_QUEUE,
    SELF_ATTENTION,
    SHARED_TEXT,
    TEXT,
    TIED_PROJECTION,
    UNTIED_LM_HEAD,
    VISION,
    WORDS,
    Row,
)  # fmt: skip

AnyConfig = BlipConfig | BlipTextConfig | BlipVisionConfig


@dataclass(frozen=True)
class Part:
    """Rows that a checkpoint holds all or none of, under one prefix in the model and several in checkpoints.

    `prefixes` are the places of a checkpoint where the part may lie, the model's own one first. `cross` is the symbol
    of the width that cross-attention reads. `copies` is a further prefix under which a checkpoint holds every tensor
    of the part a second time. `state` marks what only training needs: momentum copies and queues. `tied` says that the
    projection to the vocabulary is the word embeddings.
    """

    label: str
    rows: tuple[Row, ...]
    prefixes: tuple[str, ...]
    cross: str = "vision"
    copies: str = ""
    state: bool = False
    tied: bool = True

    @property
    def prefix(self) -> str:
        """What the names of the part begin with in the model itself and in its Hugging Face checkpoints."""
        return self.prefixes[0]

    def copies_of(self, row: Row, prefix: str) -> list[str]:
        """Names, with `{}` for the layer, of the tensors tied to a row's where the part lies under `prefix`."""
        names = [prefix + name for name in row.also] + [self.copies + row.name] * bool(self.copies)
        places = [place.removesuffix("bert.") for place in (prefix, self.copies) if place.endswith("bert.")]
        return names + [place + TIED_PROJECTION for place in places if self.tied and row is WORDS]

    def untied(self) -> Part:
        """Return the part of a model whose projection to the vocabulary has weights of its own."""
        return replace(self, rows=UNTIED_LM_HEAD if self.rows is LM_HEAD else self.rows, tied=False)

    def saved_names(self, row: Row) -> list[str]:
        """Names, with `{}` for the layer, of a row's tensor in a Hugging Face checkpoint and of its whole copies."""
        return [self.prefix + row.name, *([self.copies + row.name] * bool(self.copies))]

    def original_prefix(self) -> str:
        """Where an original checkpoint of the model holds the part."""
        return next((prefix for prefix in self.prefixes if prefix.startswith(ORIGINAL_VISION)), self.prefix)


ORIGINAL_VISION = "visual_encoder"  # under `visual_encoder.` and `visual_encoder_m.`, names are the rows' original ones
CROSSING = (CROSS, CROSS_PAIR, MERGE)


def _vision(prefix: str = "vision_model.", copy: str = "") -> Part:
    places = (prefix, f"vision_model{copy}.", f"{ORIGINAL_VISION}{copy}.")
    label = "momentum vision encoder" if copy else "vision encoder"
    return Part(label, VISION, tuple(dict.fromkeys(places)))


def _text(prefix: str, *elsewhere: str, cross: str = "cross", cross_rows: tuple[Row, ...] = CROSS) -> tuple[Part, Part]:
    label = "text decoder" if "decoder" in prefix else "momentum text encoder" if "_m." in prefix else "text encoder"
    places = (prefix, *elsewhere)
    return Part(label, TEXT, places, cross), Part(f"{label}'s cross-attention", cross_rows, places, cross)


def _lm_head(prefix: str) -> Part:
    return Part("language-modelling head", LM_HEAD, tuple(dict.fromkeys((prefix, "text_decoder."))))


def _decoder(prefix: str = "text_decoder.", cross: str = "cross") -> tuple[Part, ...]:
    places = tuple(dict.fromkeys((prefix, "text_decoder.")))
    return *_text(*(f"{place}bert." for place in places), cross=cross), _lm_head(prefix)


def _rows(label: str, rows: Sequence[Row]) -> Part:
    return Part(label, tuple(rows), ("",))


def _state(*parts: Part) -> tuple[Part, ...]:
    return tuple(replace(part, state=True) for part in parts)


ENCODER = ("text_encoder.",)
DECODER = "text_decoder.bert."
MOMENTUM_ENCODERS = (_vision("vision_model_m.", "_m"), *_text("text_encoder_m."))
MOMENTUM = (
    *MOMENTUM_ENCODERS,
    _rows("momentum projections", MOMENTUM_PROJECTIONS),
    _rows("temperature and queues", QUEUES),
)


@dataclass(frozen=True)
class Head:
    """A model class; its TensorFlow twin has the same.

    Attributes:
        name: The name of the class, without "TF".
        parts: What it consists of.
        state: What a checkpoint may hold besides: the state from which contrastive training goes on.
        needs_state: Whether it cannot do without that state.
        config: The class of its configuration.
        crosses: Whether its text model must have cross-attention.
        generates: Whether it has `generate`, and takes `labels` that are tokens.
        prompted: Whether what it generates begins with the prompt of the generation settings.
        pictures: How many pictures go with a text.
        original: Whether the original code has this model.
        cut_from: The head whose checkpoints hold this one ready for use, "" if there is none.
        use: What uses it, for messages.
        task: What it is for, in words.
        pipeline: The task's name on the Hugging Face Hub, "" if it has none.
        shipped: Its weights in the folder of the shipped model, "" for the usual ones.
        objective: The output whose gradient a parity check compares if there is no loss.
        variants: Further calls that a parity check makes: a label, and the arguments that differ.
        keras2_root: What its names in `tf_model.h5` begin with.
    """

    name: str
    parts: tuple[Part, ...]
    state: tuple[Part, ...] = ()
    needs_state: bool = False
    config: type[AnyConfig] = BlipConfig
    crosses: bool = True
    generates: bool = False
    prompted: bool = False
    pictures: int = 1
    original: bool = False
    cut_from: str = ""
    use: str = "blip train, or convert --head to cut a part out"
    task: str = "pictures or texts alone, as a part of other models"
    pipeline: str = "feature-extraction"
    shipped: str = ""
    objective: str = "loss"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keras2_root: str = ""

    @property
    def modules(self) -> set[str]:
        """The attributes that hold its parts; "" for a part without a module of its own."""
        return {part.prefix.partition(".")[0] for part in self.parts}

    @property
    def queues(self) -> bool:
        """Whether its training compares the pairs of a batch and of queues."""
        return any(row.init == "unit_columns" for part in self.state for row in part.rows)

    @property
    def classes(self) -> bool:
        """Whether it sorts texts with pictures into classes of its own number."""
        return any(part.rows == CLASS_HEAD for part in self.parts)

    @property
    def answers(self) -> bool:
        """Whether its decoder reads the states of a question, and not the picture."""
        return any(part.cross == "text" for part in self.parts)

    @property
    def pairs(self) -> bool:
        """Whether it takes two pictures, or learns from the difference of pairs."""
        return self.pictures > 1 or self.queues


HEADS: dict[str, Head] = {
    row.name: row
    for row in (
        Head(
            "BlipVisionModel",
            (_vision(""),),
            config=BlipVisionConfig, crosses=False, objective="last_hidden_state",
        ),
        Head(
            "BlipTextModel",
            (
                *_text("", "text_model.", "text_encoder.", "bert.", DECODER),
                Part("pooler", POOLER, ("", "text_model.")),
            ),
            config=BlipTextConfig, crosses=False, objective="last_hidden_state",
        ),
        Head("BlipTextLMHeadModel", _decoder(""), config=BlipTextConfig, generates=True),
        Head(
            "BlipModel",
            (
                _vision(),
                *_text("text_model.", "text_encoder."),
                Part("pooler", POOLER, ("text_model.",)),
                _rows("projections", PROJECTIONS),
            ),
            crosses=False, objective="logits_per_image", keras2_root="blip/", task="features of pictures and texts",
        ),
        Head(
            "BlipForConditionalGeneration",
            (_vision(), *_decoder()),
            generates=True, prompted=True, original=True, cut_from="BlipForPreTraining",
            use="Captioner (blip caption)", task="captioning pictures", pipeline="image-to-text",
        ),
        Head(
            "BlipForQuestionAnswering",
            (_vision(), *_text("text_encoder.", "text_model."), *_decoder(cross="text")),
            generates=True, original=True, use="Answerer (blip answer)",
            shipped="questions.safetensors.index.json", task="answering questions about pictures",
            pipeline="visual-question-answering",
        ),
        Head(
            "BlipForImageTextRetrieval",
            (
                _vision(),
                *_text("text_encoder.", "text_model."),
                _rows("projections and matching head", RETRIEVAL),
            ),
            state=_state(*MOMENTUM, _rows("queue of picture ids", RETRIEVAL_QUEUE)),
            original=True, cut_from="BlipForPreTraining", objective="itm_score",
            use="Matcher (blip match, classify, explain, search)", variants={"cosines": {"use_itm_head": False}},
            task="matching pictures and texts", pipeline="zero-shot-image-classification",
        ),
        Head(
            "BlipForNLVR",
            (
                _vision(),
                *_text("text_encoder.", cross_rows=CROSS_PAIR),
                Part("text encoder's merging layers", MERGE, ENCODER),
                _rows("classification head", NLVR_HEAD),
            ),
            pictures=2, original=True, use="blip evaluate nlvr", task="judging statements about two pictures",
            pipeline="",
        ),
        Head(
            "BlipForClassification",
            (
                _vision(),
                *_text("text_encoder.", "text_model."),
                _rows("classification head", CLASS_HEAD),
            ),
            state=_state(*MOMENTUM_ENCODERS, _rows("momentum classification head", MOMENTUM_CLASS_HEAD)),
            use="blip evaluate classification", task="sorting texts with pictures into classes", pipeline="",
        ),
        Head(
            "BlipForPreTraining",
            (
                _vision(),
                Part("text encoder and decoder", SHARED_TEXT, ENCODER, copies=DECODER),
                Part("text encoder's self-attention", SELF_ATTENTION, ENCODER),
                Part("text encoder's cross-attention", CROSS, ENCODER, "cross", copies=DECODER),
                Part("text decoder's self-attention", SELF_ATTENTION, (DECODER,)),
                _lm_head("text_decoder."),
                _rows("projections and matching head", RETRIEVAL),
            ),
            state=_state(*MOMENTUM, _rows("queue pointer", PRETRAINING_QUEUE)),
            needs_state=True, original=True, task="captioning and matching, pre-trained", pipeline="image-to-text",
        ),
    )
}  # fmt: skip
"""The model classes by name."""


def head_of(model: Any) -> Head:
    """Return the row of a model's class, or of the class that it is derived from."""
    prefix = engine_of(model).prefix
    names = (kind.__name__.removeprefix(prefix) for kind in type(model).__mro__)
    return next(HEADS[name] for name in names if name in HEADS)
