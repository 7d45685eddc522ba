"""The weight table: every parameter of every BLIP model, under all its names, with its shape.

The rows below are the only place that knows parameter names. A row gives a parameter's name in our modules (the same
in PyTorch and TensorFlow), in a Hugging Face checkpoint and in an original Salesforce checkpoint; `{}` stands for the
layer index. Shapes are written in symbols that `_sizes` takes from a configuration, in PyTorch's layout. `MODELS`
joins groups of rows to models. What a checkpoint must hold, what it may hold besides, conversions between the names
and the layouts, parameter counts and initial values all follow from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig

AnyConfig = BlipConfig | BlipTextConfig | BlipVisionConfig

TO_TENSORFLOW = {"linear": (1, 0), "conv": (2, 3, 1, 0)}
"""Axes of the TensorFlow tensor by layout: a dense kernel is (in, out), a convolution (height, width, in, out)."""


@dataclass(frozen=True)
class Part:
    """Rows that stand or fall together, under one prefix in our modules and several in checkpoints.

    `prefixes` are the places of a checkpoint where the part may lie, the model's own Hugging Face one first. `cross`
    is the symbol of the width that cross-attention reads.
    """

    label: str
    prefix: str
    rows: tuple[Row, ...]
    prefixes: tuple[str, ...]
    cross: str = "vision"


def _vision(prefix: str = "vision_model.") -> Part:
    return Part("vision encoder", prefix, VISION, tuple(dict.fromkeys((prefix, "vision_model.", ORIGINAL_VISION))))


def _text(prefix: str, *elsewhere: str, cross: str = "cross") -> tuple[Part, Part]:
    label = "text decoder" if "decoder" in prefix else "text encoder"
    places = (prefix, *elsewhere)
    return Part(label, prefix, TEXT, places, cross), Part(f"{label}'s cross-attention", prefix, CROSS, places, cross)


def _decoder(prefix: str = "text_decoder.", cross: str = "cross") -> tuple[Part, ...]:
    places = tuple(dict.fromkeys((prefix, "text_decoder.")))
    bert = _text(*(f"{place}bert." for place in places), cross=cross)
    return *bert, Part("language-modelling head", prefix, LM_HEAD, places)


ORIGINAL_VISION = "visual_encoder."  # under this prefix alone, names are the rows' original ones
MODELS: dict[str, tuple[Part, ...]] = {
    "BlipVisionModel": (_vision(""),),
    "BlipTextModel": (
        *_text("", "text_model.", "text_encoder.", "bert.", "text_decoder.bert."),
        Part("pooler", "", POOLER, ("", "text_model.")),
    ),
    "BlipTextLMHeadModel": _decoder(""),
    "BlipModel": (
        _vision(),
        *_text("text_model.", "text_encoder."),
        Part("pooler", "text_model.", POOLER, ("text_model.",)),
        Part("projections", "", PROJECTIONS, ("",)),
    ),
    "BlipForConditionalGeneration": (_vision(), *_decoder()),
    "BlipForQuestionAnswering": (_vision(), *_text("text_encoder.", "text_model."), *_decoder(cross="text")),
    "BlipForImageTextRetrieval": (
        _vision(),
        *_text("text_encoder.", "text_model."),
        Part("projections and matching head", "", RETRIEVAL, ("",)),
    ),
}
"""The parts of each model by class name; the TensorFlow twin has the same."""


@dataclass(frozen=True)
class Parameter:
    """A row made concrete: one tensor of one model with one configuration.

    `name` is its name in our modules, `hf` the one in a Hugging Face checkpoint of the same model. `shape` is in
    PyTorch's layout, which is that of every checkpoint but Keras HDF5. `layer` is None outside the blocks.
    """

    name: str
    hf: str
    shape: tuple[int, ...]
    row: Row
    part: Part
    layer: int | None

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

    def places(self, prefix: str) -> list[str]:
        """Names that this tensor may have in a checkpoint whose part lies under `prefix`, the usual one first."""
        usual = self.row.original if prefix == ORIGINAL_VISION else self.row.hf
        tied = [prefix.removesuffix("bert.") + TIED_PROJECTION] * (self.row is TEXT[0] and prefix.endswith("bert."))
        return [prefix + name.format(self.layer) for name in (usual, *self.row.also)] + tied


def parameters(model: str, config: AnyConfig) -> list[Parameter]:
    """List every parameter of the model class `model` (named without `TF`) for a configuration.

    Raises `ValueError` where they do not fit: a model that reads images into text, configured without cross-attention.
    """
    text = getattr(config, "text_config", config)
    crossing = getattr(text, "is_decoder", False)
    if not crossing and model not in ("BlipVisionModel", "BlipTextModel", "BlipModel"):
        raise ValueError(f"{model} needs cross-attention; set is_decoder=True in its text configuration.")
    return [
        parameter
        for part in MODELS[model]
        if crossing or part.rows is not CROSS
        for parameter in _expand(part, _sizes(config))
    ]


def _expand(part: Part, sizes: dict[str, int]) -> Iterator[Parameter]:
    sizes = {**sizes, "cross": sizes[part.cross]} if part.rows is CROSS else sizes
    for row in part.rows:
        layers = (
            range(sizes["vision_layers" if part.rows is VISION else "text_layers"]) if "{}" in row.name else (None,)
        )
        for layer in layers:
            name, hf = part.prefix + row.name.format(layer), part.prefixes[0] + row.hf.format(layer)
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in row.shape)
            yield Parameter(name, hf, shape, row, part, layer)


def _sizes(config: AnyConfig) -> dict[str, int]:
    """The symbols of the rows' shapes, as far as this configuration defines them."""
    sizes: dict[str, int] = {}
    if not isinstance(config, BlipVisionConfig):
        text = config.text_config if isinstance(config, BlipConfig) else config
        sizes |= {
            "text": text.hidden_size,
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
    return sizes


def initial_value(parameter: Parameter, config: AnyConfig, noise: np.random.Generator) -> np.ndarray:
    """Draw a new parameter: float32 in PyTorch's layout.

    Weights are normal with the configuration's `initializer_range` (0.02 in a vision model by itself, whose own range
    is that of the class token and the positions), biases 0, LayerNorm scales 1.
    """
    init, shape = parameter.row.init, parameter.shape
    if init == "zeros":
        return np.zeros(shape, np.float32)
    if init == "ones":
        return np.ones(shape, np.float32)
    if init == "logit_scale":
        return np.full(shape, config.logit_scale_init_value, np.float32)  # type: ignore[union-attr]
    if init == "position":
        std = getattr(config, "vision_config", config).initializer_range
    else:
        std = 0.02 if isinstance(config, BlipVisionConfig) else config.initializer_range
    return noise.standard_normal(shape, np.float32) * np.float32(std)
