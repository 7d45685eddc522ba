"""The weight table: every parameter of every BLIP model, under all its names, with its shape.

`MODELS` and `TRAINING_STATE` join groups of rows (see `table.py`) to models. What a checkpoint must hold, what it may
hold besides, conversions between the names and the layouts, parameter counts and initial values all follow from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.parameters.table import (
    CROSS,
    CROSS_PAIR,
    LM_HEAD,
    MERGE,
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
    VISION,
    WORDS,
    Row,
)  # fmt: skip

AnyConfig = BlipConfig | BlipTextConfig | BlipVisionConfig

TO_TENSORFLOW = {"linear": (1, 0), "conv": (2, 3, 1, 0)}
"""Axes of the TensorFlow tensor by layout: a dense kernel is (in, out), a convolution (height, width, in, out)."""


@dataclass(frozen=True)
class Part:
    """Rows that a checkpoint holds all or none of, under one prefix in the model and several in checkpoints.

    `prefixes` are the places of a checkpoint where the part may lie, the model's own one first. `cross` is the symbol
    of the width that cross-attention reads. `copies` is a further prefix under which a checkpoint holds every tensor
    of the part a second time.
    """

    label: str
    rows: tuple[Row, ...]
    prefixes: tuple[str, ...]
    cross: str = "vision"
    copies: str = ""

    @property
    def prefix(self) -> str:
        """What the names of the part begin with in the model itself and in its Hugging Face checkpoints."""
        return self.prefixes[0]

    def copies_of(self, row: Row, prefix: str) -> list[str]:
        """Names, with `{}` for the layer, of the tensors tied to a row's where the part lies under `prefix`."""
        names = [prefix + name for name in row.also] + [self.copies + row.name] * bool(self.copies)
        places = [place.removesuffix("bert.") for place in (prefix, self.copies) if place.endswith("bert.")]
        return names + [place + TIED_PROJECTION for place in places if row is WORDS]

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


ENCODER = ("text_encoder.",)
DECODER = "text_decoder.bert."
MODELS: dict[str, tuple[Part, ...]] = {
    "BlipVisionModel": (_vision(""),),
    "BlipTextModel": (
        *_text("", "text_model.", "text_encoder.", "bert.", DECODER),
        Part("pooler", POOLER, ("", "text_model.")),
    ),
    "BlipTextLMHeadModel": _decoder(""),
    "BlipModel": (
        _vision(),
        *_text("text_model.", "text_encoder."),
        Part("pooler", POOLER, ("text_model.",)),
        _rows("projections", PROJECTIONS),
    ),
    "BlipForConditionalGeneration": (_vision(), *_decoder()),
    "BlipForQuestionAnswering": (_vision(), *_text("text_encoder.", "text_model."), *_decoder(cross="text")),
    "BlipForImageTextRetrieval": (
        _vision(),
        *_text("text_encoder.", "text_model."),
        _rows("projections and matching head", RETRIEVAL),
    ),
    "BlipForNLVR": (
        _vision(),
        *_text("text_encoder.", cross_rows=CROSS_PAIR),
        Part("text encoder's merging layers", MERGE, ENCODER),
        _rows("classification head", NLVR_HEAD),
    ),
    "BlipForPreTraining": (
        _vision(),
        Part("text encoder and decoder", SHARED_TEXT, ENCODER, copies=DECODER),
        Part("text encoder's self-attention", SELF_ATTENTION, ENCODER),
        Part("text encoder's cross-attention", CROSS, ENCODER, "cross", copies=DECODER),
        Part("text decoder's self-attention", SELF_ATTENTION, (DECODER,)),
        _lm_head("text_decoder."),
        _rows("projections and matching head", RETRIEVAL),
    ),
}
"""The parts of each model by class name; the TensorFlow twin has the same."""

_MOMENTUM = (
    _vision("vision_model_m.", "_m"),
    *_text("text_encoder_m."),
    _rows("momentum projections", MOMENTUM_PROJECTIONS),
)
TRAINING_STATE: dict[str, tuple[Part, ...]] = {
    "BlipForImageTextRetrieval": (
        *_MOMENTUM,
        _rows("temperature and queues", QUEUES),
        _rows("queue of picture ids", RETRIEVAL_QUEUE),
    ),
    "BlipForPreTraining": (
        *_MOMENTUM,
        _rows("temperature and queues", QUEUES),
        _rows("queue pointer", PRETRAINING_QUEUE),
    ),
}
"""What a checkpoint may hold besides: the state from which contrastive training goes on."""


@dataclass(frozen=True)
class Parameter:
    """A row made concrete: one tensor of one model with one configuration.

    `name` is its name in the model and in a Hugging Face checkpoint of it. `shape` is in PyTorch's layout, which is
    that of every checkpoint but Keras HDF5. `layer` is None outside the layers of the transformers.
    """

    name: str
    shape: tuple[int, ...]
    row: Row
    part: Part
    layer: int | None

    @property
    def followed(self) -> str:
        """The name of the weight that a momentum copy follows; its own name for any other."""
        return self.name.replace("_m.", ".", 1)

    @property
    def axes(self) -> tuple[int, ...]:
        """The order in which TensorFlow's tensor takes the axes of PyTorch's."""
        return TO_TENSORFLOW.get(self.row.layout, tuple(range(len(self.shape))))

    def to_tensorflow(self, array: np.ndarray) -> np.ndarray:
        """View an array of PyTorch's layout in TensorFlow's."""
        return array.transpose(self.axes)

    def from_tensorflow(self, array: np.ndarray) -> np.ndarray:
        """View an array of TensorFlow's layout in PyTorch's."""
        return array.transpose(np.argsort(self.axes)) if self.axes else array

    @property
    def stored_as(self) -> tuple[str, ...]:
        """The names in a saved checkpoint, two of what pre-training's encoder and decoder share."""
        return tuple(name.format(self.layer) for name in self.part.saved_names(self.row))

    def usual(self, prefix: str) -> str:
        """The name of this tensor in a checkpoint whose part lies under `prefix`."""
        name = self.row.original if prefix.startswith(ORIGINAL_VISION) else self.row.name
        return prefix + name.format(self.layer)

    def copies(self, prefix: str) -> list[str]:
        """Names of the tensors that are tied to this one in such a checkpoint."""
        return [name.format(self.layer) for name in self.part.copies_of(self.row, prefix)]

    def places(self, prefix: str) -> list[str]:
        """Names under which such a checkpoint may hold this tensor, the usual one first."""
        single = [prefix + self.row.single.format(self.layer)] * bool(self.row.single)
        return [self.usual(prefix), *self.copies(prefix), *single]


def parameters(model: str, config: AnyConfig) -> list[Parameter]:
    """List every parameter of the model class `model` (named without `TF`) for a configuration.

    Raises `ValueError` where they do not fit: a model that reads images into text, configured without cross-attention.
    """
    text = getattr(config, "text_config", config)
    crossing = getattr(text, "is_decoder", False)
    if not crossing and model not in ("BlipVisionModel", "BlipTextModel", "BlipModel"):
        raise ValueError(f"{model} needs cross-attention; set is_decoder=True in its text configuration.")
    return _concrete([part for part in MODELS[model] if crossing or part.rows not in CROSSING], config)


def training_state(model: str, config: BlipConfig) -> list[Parameter]:
    """List the tensors besides its parameters from which the training of a model goes on."""
    return _concrete(TRAINING_STATE.get(model, ()), config)


def _concrete(parts: Sequence[Part], config: AnyConfig) -> list[Parameter]:
    return [parameter for part in parts for parameter in _expand(part, _sizes(config))]


def _expand(part: Part, sizes: dict[str, int]) -> Iterator[Parameter]:
    sizes = {**sizes, "cross": sizes[part.cross]} if part.rows in CROSSING else sizes
    count = "vision_layers" if part.rows is VISION else "text_layers"
    for row in part.rows:
        for layer in range(row.start, sizes[count]) if "{}" in row.name else (None,):
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in row.shape)
            yield Parameter(part.prefix + row.name.format(layer), shape, row, part, layer)


def _sizes(config: AnyConfig) -> dict[str, int]:
    """The symbols of the rows' shapes, as far as this configuration defines them."""
    sizes: dict[str, int] = {}
    if not isinstance(config, BlipVisionConfig):
        text = config.text_config if isinstance(config, BlipConfig) else config
        sizes |= {
            "text": text.hidden_size,
            "text_pair": 2 * text.hidden_size,
            "text_mlp": text.intermediate_size,
            "text_layers": text.num_hidden_layers,
            "cross": text.encoder_hidden_size,
            "vocab": text.vocab_size,
            "positions": text.max_position_embeddings,
        }
    if not isinstance(config, BlipTextConfig):
        vision = config.vision_config if isinstance(config, BlipConfig) else config
        sizes |= {
            "vision": vision.hidden_size,
            "vision_mlp": vision.intermediate_size,
            "vision_layers": vision.num_hidden_layers,
            "qkv": 3 * vision.hidden_size,
            "channels": vision.num_channels,
            "patch": vision.patch_size,
            "tokens": vision.num_positions,
        }
    if isinstance(config, BlipConfig):
        sizes |= {"itc": config.image_text_hidden_size, "projection": config.projection_dim}
        sizes |= {"queue": config.queue_size}
    return sizes
