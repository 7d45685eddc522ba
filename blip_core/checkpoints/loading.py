"""Loading a model from a checkpoint: what `from_pretrained` of both backends shares."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.formats import open_checkpoint
from blip_core.checkpoints.plan import plan_tensors, wanted_parameters
from blip_core.checkpoints.processor_files import read_generation_config
from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.files import read_json
from blip_core.generation import GenerationConfig
from blip_core.hub import or_shipped
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.matching import find_model, match
from blip_core.parameters.models import Parameter
from blip_core.parameters.recovered_configs import from_med_config, recover_config

C = TypeVar("C", bound=AnyConfig)


class Pretrained:
    """A model on disk, opened: its configuration, and its parameters one at a time.

    Iterating gives every parameter with its value in PyTorch's layout; the arrays may be views of the mapped file.
    Parts that the checkpoint lacks are initialised at random from `seed`; one warning lists them.

    Attributes:
        config: The configuration of the model.
        has_state: Whether the training state of contrastive models follows the parameters: always for pre-training,
            for matching if the checkpoint has some of it. What it lacks are copies of the weights and an empty queue.
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
        self.checkpoint = open_checkpoint(or_shipped(name_or_path, HEADS[model].shipped), revision=revision)
        self.config = read_config(model, self.checkpoint, config)
        if image_size is not None:
            self.config = with_image_size(self.config, image_size)
        path, shapes = self.checkpoint.path, self.checkpoint.shapes
        try:
            resize, with_state = image_size is not None or config is not None, bool(HEADS[model].state)
            found = match(model, self.config, shapes, resize=resize, with_state=with_state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        wanted = wanted_parameters(model, self.config, found)
        self.has_state = any(parameter.part.state for parameter in wanted)
        self._tensors = plan_tensors(self.checkpoint, self.config, wanted, found, seed)
        self.dtype = self.checkpoint.dtypes[next(iter(found.sources.values()))]
        if found.new_parts:
            warnings.warn(
                f"{path} has no {', no '.join(found.new_parts)}: initialised at random for {model}; "
                "train it before use.",
                stacklevel=3,
            )

    def __iter__(self) -> Iterator[tuple[Parameter, np.ndarray]]:
        for tensor in self._tensors:
            yield tensor.row, tensor.read()

    def generation_config(self) -> GenerationConfig:
        """Return the folder's `generation_config.json`, or the defaults."""
        return read_generation_config(config_path(self.checkpoint).parent)


def config_path(checkpoint: Checkpoint) -> Path:
    """Return where the configuration of a checkpoint is expected: beside the weights.

    For a folder `checkpoint-N` of a trainer that does not write one there, it is in the folder above.
    """
    folder = checkpoint.path.parent
    beside, above = folder / "config.json", folder.parent / "config.json"
    return above if folder.name.startswith("checkpoint-") and above.is_file() and not beside.is_file() else beside


def find_head(checkpoint: Checkpoint) -> str | None:
    """Return the model class of a checkpoint: the one that `config.json` names, or else the one that its tensors fit.

    None if it is no BLIP.
    """
    path = config_path(checkpoint)
    architectures = read_json(path).get("architectures") if path.is_file() else None
    name = str(architectures[0]).removeprefix("TF") if isinstance(architectures, list) and architectures else ""
    return name if name in HEADS else find_model(checkpoint.shapes)


def read_config(
    model: str, checkpoint: Checkpoint, given: AnyConfig | Mapping[str, Any] | str | Path | None
) -> AnyConfig:
    """Return the configuration for a model of a checkpoint.

    It comes from `given`, from `config.json`, and for an original checkpoint from the shapes of its tensors, in this
    order. `given` is a whole configuration, a file of one (or the original's `med_config.json`), or a dictionary of
    the settings to override (nested for `text_config` and `vision_config`). Raises `ValueError` if the result is
    incomplete or contradictory.
    """
    kind = HEADS[model].config
    if isinstance(given, BlipConfig | BlipTextConfig | BlipVisionConfig) and isinstance(given, kind):
        return _untied(copy.deepcopy(given), checkpoint)
    if isinstance(given, str | Path):
        given = from_med_config(read_json(given))
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"config must be a {kind.__name__}, a dictionary or a file; got {type(given).__name__}.")
    path = config_path(checkpoint)
    given = dict(given or {})
    is_whole = str(given.get("model_type", "")).startswith("blip")
    values = checkpoint.config or (read_json(path) if path.is_file() else dict(given) if is_whole else None)
    if kind is not BlipConfig and not given.keys() & {"text_config", "vision_config"}:
        given = {"text_config" if kind is BlipTextConfig else "vision_config": given}
    values = values or recover_config(checkpoint.path, checkpoint.shapes, given)
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
        return _untied(text, checkpoint)
    return _untied(whole, checkpoint) if kind is BlipConfig else whole.vision_config


def _untied(config: C, checkpoint: Checkpoint) -> C:
    """Give the projection to the vocabulary weights of its own where an adapter changes it alone."""
    if checkpoint.untied:
        setattr(getattr(config, "text_config", config), "tie_word_embeddings", False)  # noqa: B010
    return config


def _merge(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _merge(values.get(k) or {}, v) for k, v in over.items() if isinstance(v, Mapping)}
    return {**values, **over, **nested}


def with_image_size(config: AnyConfig, image_size: int) -> AnyConfig:
    """Return a copy of a configuration, for pictures of another size in pixels."""
    values = config.to_dict()
    values.get("vision_config", values)["image_size"] = image_size
    return type(config).from_dict(values)
