"""From a checkpoint to a model's configuration and parameters: what both backends' `from_pretrained` share."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.files import read_json
from blip_core.generation import GenerationConfig
from blip_core.hub import or_shipped
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.matching import match
from blip_core.parameters.models import TRAINING_STATE, AnyConfig, Parameter, training_state
from blip_core.parameters.original_configs import from_med_config, recover_config
from blip_core.parameters.position_embeddings import resize_positions

CONFIGS: dict[str, type[AnyConfig]] = {
    "BlipVisionModel": BlipVisionConfig,
    "BlipTextModel": BlipTextConfig,
    "BlipTextLMHeadModel": BlipTextConfig,
}
"""The configuration class of each model class that does not take `BlipConfig`."""


class Pretrained:
    """A model on disk, opened: its configuration, and its parameters one at a time.

    Iterating gives every parameter with its value in PyTorch's layout; the arrays may be views of the mapped file.
    A part that the checkpoint does not hold is drawn anew from `seed`, which one warning says.
    `has_state` tells of the training state of contrastive models, which follows the parameters: as the checkpoint
    holds it, and otherwise copies of the weights, an empty queue. Pre-training always has it, matching if it is there.
    """

    def __init__(
        self,
        model: str,
        name_or_path: str | Path | None,
        *,
        config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
        image_size: int | None = None,
        revision: str | None = None,
        seed: int = 0,
    ):
        self.checkpoint = open_checkpoint(or_shipped(name_or_path, model), revision=revision)
        self.folder = self.checkpoint.path.parent
        self.config = read_config(model, self.checkpoint, config)
        if image_size is not None:
            self.config = with_image_size(self.config, image_size)
        try:
            resize = image_size is not None or config is not None
            with_state = model in TRAINING_STATE
            self._match = match(model, self.config, self.checkpoint.shapes, resize=resize, with_state=with_state)
        except ValueError as error:
            raise ValueError(f"{self.checkpoint.path}: {error}") from None
        state = training_state(model, self.config) if isinstance(self.config, BlipConfig) else []
        self.has_state = model == "BlipForPreTraining" or any(p.name in self._match.sources for p in state)
        held = {parameter.name for parameter in self._match.parameters}
        self._parameters = self._match.parameters + [p for p in state if self.has_state and p.name not in held]
        self._noise = np.random.default_rng(seed)
        if self._match.new_parts:
            warnings.warn(
                f"{self.checkpoint.path} has no {', no '.join(self._match.new_parts)}: "
                f"initialised at random for {model}; train it before use.",
                stacklevel=3,
            )

    def __iter__(self) -> Iterator[tuple[Parameter, np.ndarray]]:
        drawn: dict[str, np.ndarray] = {}
        for parameter in self._parameters:
            copied = parameter.name in self._match.sources or "_m." not in parameter.name
            name = parameter.name if copied else parameter.name.replace("_m.", ".", 1)
            source = self._match.sources.get(name)
            if source is not None:
                array = self._read(parameter, source)
            elif name in drawn:
                array = drawn[name]
            else:
                array = initial_value(parameter, self.config, self._noise)
                drawn |= {name: array} if self.has_state else {}
            yield parameter, array if copied else array.copy()

    def _read(self, parameter: Parameter, source: str) -> np.ndarray:
        array = self.checkpoint[source]
        if array.dtype not in (WHOLE if parameter.row.init in ("no_id", "pointer") else FLOATS):
            raise ValueError(
                f"{self.checkpoint.path}: {source} is of type {array.dtype}; weights must be floating-point."
            )
        return array if array.shape == parameter.shape else resize_positions(array, parameter.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """The type in which the checkpoint stores its weights."""
        return self.checkpoint.dtypes[next(iter(self._match.sources.values()))]

    def generation_config(self) -> GenerationConfig:
        """The folder's `generation_config.json`, or the defaults."""
        found = (self.folder / "generation_config.json").is_file()
        return GenerationConfig.from_pretrained(self.folder) if found else GenerationConfig()


WHOLE = {np.dtype(np.int64)}
FLOATS = {np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)}


def read_config(
    model: str, checkpoint: Checkpoint, given: AnyConfig | Mapping[str, Any] | str | Path | None
) -> AnyConfig:
    """Return the configuration for a model of a checkpoint: what `given` says, over `config.json`, over the tensors.

    `given` is a whole configuration, a file of one (or the original's `med_config.json`), or a dictionary of the
    settings to override (nested for `text_config` and `vision_config`). Raises `ValueError` where the three together
    leave something open.
    """
    kind = CONFIGS.get(model, BlipConfig)
    if isinstance(given, kind):
        return copy.deepcopy(given)
    if isinstance(given, str | Path):
        given = from_med_config(read_json(given))
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"config must be a {kind.__name__}, a dictionary or a file; got {type(given).__name__}.")
    path = checkpoint.path.parent / "config.json"
    given = dict(given or {})
    is_whole = str(given.get("model_type", "")).startswith("blip")
    values = checkpoint.config or (read_json(path) if path.is_file() else dict(given) if is_whole else None)
    if kind is not BlipConfig and not given.keys() & {"text_config", "vision_config"}:
        given = {"text_config" if kind is BlipTextConfig else "vision_config": given}
    values = values or recover_config(checkpoint, given)
    if values.get("model_type", "blip") in ("blip_text_model", "blip_vision_model"):
        values = {values["model_type"].removeprefix("blip_").removesuffix("_model") + "_config": values}
    elif values.get("model_type", "blip") != "blip":
        raise ValueError(f"{path} describes a model of type {values['model_type']!r}, not a BLIP.")
    try:
        whole = BlipConfig.from_dict(_merge(values, given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path if path.is_file() else checkpoint.path}: {error}") from None
    if kind is BlipTextConfig:
        text = whole.text_config
        if "vision_config" not in values:  # a text model by itself knows the width it attends to
            text.encoder_hidden_size = (values["text_config"] | given.get("text_config", {})).get(
                "encoder_hidden_size", 768
            )
        return text
    return whole if kind is BlipConfig else whole.vision_config


def _merge(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _merge(values.get(k) or {}, v) for k, v in over.items() if isinstance(v, Mapping)}
    return {**values, **over, **nested}


def with_image_size(config: AnyConfig, image_size: int) -> AnyConfig:
    """A copy of a configuration, for pictures of another size."""
    values = config.to_dict()
    values.get("vision_config", values)["image_size"] = image_size
    return type(config).from_dict(values)
