"""The parameters of a model with one configuration, derived from the weight table.

What a checkpoint must hold, what it may hold besides, conversions between names and layouts, parameter counts and
initial values all follow from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.parameters.heads import CROSSING, HEADS, ORIGINAL_VISION, AnyConfig, Part
from blip_core.parameters.table import VISION, Row

TO_TENSORFLOW = {"linear": (1, 0), "conv": (2, 3, 1, 0)}
"""Axes of the TensorFlow tensor by layout: a dense kernel is (in, out), a convolution (height, width, in, out)."""


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
    if not crossing and HEADS[model].crosses:
        raise ValueError(f"{model} needs cross-attention; set is_decoder=True in its text configuration.")
    parts = [part for part in HEADS[model].parts if crossing or part.rows not in CROSSING]
    if not getattr(text, "tie_word_embeddings", True):
        parts = [part.untied() for part in parts]
    return _concrete(parts, config)


def training_state(model: str, config: BlipConfig) -> list[Parameter]:
    """List the tensors besides its parameters from which the training of a model goes on."""
    return _concrete(HEADS[model].state, config)


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
        sizes |= {"queue": config.queue_size, "classes": config.num_labels}
    return sizes
