"""Loading a model from a checkpoint: what `from_pretrained` of both backends shares."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint, MemoryCheckpoint, Rounded
from blip_core.checkpoints.formats import HUB_PATTERNS, SAFETENSORS, Format, open_checkpoint
from blip_core.checkpoints.plan import plan_tensors, wanted_parameters
from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.config_mixin import merged
from blip_core.engines import get_engine
from blip_core.files import read_json
from blip_core.generation import GenerationConfig
from blip_core.hub import or_shipped, resolve_folder
from blip_core.hub.keywords import ALL, HUB, MODEL, check_rest, read_keywords
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.matching import compare, find_model
from blip_core.parameters.models import Parameter
from blip_core.parameters.recovered_configs import from_med_config, recover_config
from blip_core.parameters.table import BUFFERS

C = TypeVar("C", bound=AnyConfig)


class Pretrained:
    """A model on disk, opened: its configuration, and its parameters one at a time.

    Iterating gives every parameter with its value in PyTorch's layout; the arrays may be views of the mapped file. A
    weight that is stored as int8 comes so, with its scales, where `keeps_int8` and the stored type is asked for.
    Parts that the checkpoint lacks are initialised at random from `seed`; one warning lists them.

    Args:
        engine: The name of the engine that loads the model.
        kind: The class of the model, and `model` its name in the weight table.
        config: Replaces or overrides `config.json`, see `read_config`.
        image_size: In pixels; resizes the position embeddings.
        seed: Of the random initial values.
        to_numpy: Turns a tensor of a `state_dict` into an array.
        keeps_int8: Whether the engine computes with int8 weights.
        **keywords: Those of `KEYWORDS`, settings to override, and arguments of the class's own constructor.

    Attributes:
        config: The configuration of the model.
        dtype: What is asked for: a type, its name, or None.
        device: The same, a name or None.
        arguments: Further arguments of the constructor.
        has_state: Whether the training state of contrastive models follows the parameters: always for pre-training,
            for matching if the checkpoint has some of it. What it lacks are copies of the weights and an empty queue.
    """

    def __init__(
        self,
        engine: str,
        kind: type,
        model: str,
        *,
        config: AnyConfig | Mapping[str, Any] | str | Path | None,
        image_size: int | None,
        seed: int,
        to_numpy: Callable[[Any], np.ndarray],
        keeps_int8: bool = False,
        **keywords: Any,
    ):
        given = read_keywords(keywords, ALL, MODEL)
        self.options = given.own
        own = inspect.signature(kind).parameters.keys() - {"config", "initialize", "kwargs", "args"}
        self.arguments = {name: value for name, value in given.rest.items() if name in own}
        self.name = or_shipped(self.options["name_or_path"], HEADS[model].shipped)
        self.checkpoint = self._open(given.hub, to_numpy)
        overrides = {name: value for name, value in given.rest.items() if name not in own}
        self.config = with_overrides(read_config(model, self.checkpoint, config), overrides)
        if image_size is not None:
            self.config = with_image_size(self.config, image_size)
        path, shapes = self.checkpoint.path, self.checkpoint.shapes
        resize, with_state = bool(image_size or overrides) or config is not None, bool(HEADS[model].state)
        found = compare(model, self.config, shapes, resize=resize, with_state=with_state)
        try:
            found = found.without_misfits() if self.options["ignore_mismatched_sizes"] else found
            found.check(model, shapes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        wanted = wanted_parameters(model, self.config, found)
        self.has_state = any(parameter.part.state for parameter in wanted)
        self._tensors = plan_tensors(self.checkpoint, self.config, wanted, found, seed)
        stored = self.checkpoint.dtypes[next(iter(found.sources.values()))].name
        self.dtype = stored if self.options["dtype"] == "auto" else self.options["dtype"]
        self._keeps_int8 = keeps_int8 and self.options["dtype"] == "auto"
        automatic = self.options["device"] == "auto"
        self.device = get_engine(engine).default_device() if automatic else self.options["device"]
        self.found = found
        new = [f"no {part}" for part in found.new_parts]
        if self.options["ignore_mismatched_sizes"]:
            new += [f"{parameter.name} of another shape" for parameter in found.misfits]
        if new:
            warnings.warn(
                f"{path} has {', '.join(new)}: initialised at random for {model}; train it before use.", stacklevel=3
            )
        head, stored_head = HEADS[model], find_head(self.checkpoint)
        meant = self.name == or_shipped(None, head.shipped)  # one folder of the package has weights for every head
        if not new and not meant and head.original and stored_head not in (None, model, head.cut_from):
            warnings.warn(
                f"{path} holds a {stored_head}, whose weights fit {model} but were trained for something else; "
                "train it before use.",
                stacklevel=3,
            )

    def _open(self, hub: dict[str, Any], to_numpy: Callable[[Any], np.ndarray]) -> Checkpoint:
        """Open the weights that the keywords mean."""
        options = self.options
        if options["state_dict"] is not None:
            folder = Path("state_dict=")  # which is no folder: without a name there are no files beside the weights
            if options["name_or_path"] is not None:
                folder = resolve_folder(self.name, patterns=HUB_PATTERNS, **hub)
            tensors = {name: to_numpy(tensor) for name, tensor in options["state_dict"].items()}
            return MemoryCheckpoint(folder / "state_dict", tensors)

        def wanted(row: Format) -> bool:
            return (
                (options["use_safetensors"] is None or (row.name in SAFETENSORS) == options["use_safetensors"])
                and not (options["from_pt"] and row.framework != "pt")
                and not (options["from_tf"] and row.framework != "tf")
            )

        base_model, variant = options["base_model"], options["variant"]
        return open_checkpoint(self.name, base_model=base_model, kinds=wanted, variant=variant, **hub)

    def __iter__(self) -> Iterator[tuple[Parameter, np.ndarray | Rounded]]:
        for tensor in self._tensors:
            source = self.found.sources.get(tensor.row.name)
            rounded = self.checkpoint.rounded(source) if self._keeps_int8 and source else None
            yield tensor.row, tensor.read() if rounded is None else rounded

    def release(self, parameter: Parameter) -> None:
        """Say that the value of a parameter was copied, so that what was read of the file need not stay in memory."""
        if source := self.found.sources.get(parameter.name):
            self.checkpoint.release(source)

    def finish(self, model: Any) -> Any:
        """Give a loaded model its options of generation and its name; return it, with what did not match if asked."""
        model.generation_config = self._generation_config()
        if getattr(self.config, "gradient_checkpointing", False):  # a setting of old configurations
            model.gradient_checkpointing_enable()
        unnamed = self.options["state_dict"] is not None and self.options["name_or_path"] is None
        model.name_or_path = "" if unnamed else str(self.name)
        return (model, self._loading_info()) if self.options["output_loading_info"] else model

    def _generation_config(self) -> GenerationConfig:
        given = self.options["generation_config"]
        if given is None:
            return read_generation_config([config_path(self.checkpoint).parent, *self.checkpoint.folders], self.config)
        return GenerationConfig.from_dict(given if isinstance(given, dict) else given.to_dict())

    def _loading_info(self) -> dict[str, list[Any]]:
        found, shapes = self.found, self.checkpoint.shapes
        misfits = [(p.name, shapes[source], p.shape) for p in found.misfits if (source := self._source(p)) is not None]
        named = {name for name, *_ in misfits}
        missing = [p.name for p in found.parameters if p.name not in found.sources and p.name not in named]
        used = {name for source in found.sources.values() for name in (source, *found.tied.get(source, ()))}
        used |= {self._source(parameter) for parameter in found.misfits}
        left = [name for name in shapes if name not in used and not name.endswith(BUFFERS)]
        return {"missing_keys": missing, "unexpected_keys": left, "mismatched_keys": misfits, "error_msgs": []}

    def _source(self, parameter: Parameter) -> str | None:
        names = (name for prefix in parameter.part.prefixes for name in parameter.places(prefix))
        return next((name for name in names if name in self.checkpoint.shapes), None)


def config_path(checkpoint: Checkpoint) -> Path:
    """Return where the configuration of a checkpoint is expected: beside the weights.

    For a folder `checkpoint-N` of a trainer that does not write one there, it is in the folder above.
    """
    folder = checkpoint.path.parent
    beside, above = folder / "config.json", folder.parent / "config.json"
    return above if folder.name.startswith("checkpoint-") and above.is_file() and not beside.is_file() else beside


def read_generation_config(folders: Sequence[Path], config: AnyConfig) -> GenerationConfig:
    """Return the first `generation_config.json` of some folders; what it leaves out is as in the configuration."""
    paths = (folder / "generation_config.json" for folder in folders)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return GenerationConfig.of_model(config)
    try:
        return GenerationConfig.of_model(config, read_json(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


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
        whole = BlipConfig.from_dict(merged(values, given))
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


def with_overrides(config: AnyConfig, overrides: Mapping[str, Any]) -> AnyConfig:
    """Return a configuration with some settings replaced, those of parts as dictionaries.

    Raises `TypeError` for a name that is neither a setting nor another keyword of `from_pretrained`.
    """
    if not overrides:
        return config
    values = config.to_dict()
    fields = [*values, *config.unset]
    check_rest(overrides, fields, "keyword of from_pretrained", ALL, MODEL, HUB)
    return type(config).from_dict(merged(values, overrides))


def with_image_size(config: AnyConfig, image_size: int) -> AnyConfig:
    """Return a copy of a configuration, for pictures of another size in pixels."""
    values = config.to_dict()
    values.get("vision_config", values)["image_size"] = image_size
    return type(config).from_dict(values)
