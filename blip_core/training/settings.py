"""The settings of a training run: presets with the paper's values, overridden by a TOML file or by name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from blip_core.datasets import Augmentation
from blip_core.generation import GenerationConfig
from blip_core.tasks import PRESETS, get_task, recipes
from blip_core.validators import check_settings, choice, flag, number, require, setting, text, whole_number

AUTO = "auto"
"""The recipe whose settings follow from the data and the model, see `blip_core.training.recipe`."""
MODEL = "model"
"""The value of an optional setting that leaves it to the model."""
MAX_RATE = 1e30
"""With a higher rate optimizers fail at numbers beyond float32, instead of giving a loss that is not finite."""
OF_PAPER = ("image_size", "queue_size", "vit_ckpt_layer")
"""What the recipe auto leaves to the model, and to the size of the data."""
FREE = ("max_steps", "workers", "cache", "log_every", "save_every", "keep", "device", "report_to")
"""What may change when a run is resumed, because the result does not depend on it."""


def _augmentation(name: str, value: Any) -> Any:
    """Validate the fields of a table by making an `Augmentation` of them."""
    require(isinstance(value, bool | Mapping), name, value, "true, false or a table")
    if isinstance(value, Mapping):
        known = [row.name for row in fields(Augmentation)]
        if unknown := value.keys() - set(known):
            raise ValueError(f"augmentation has no {', '.join(sorted(unknown))}, only {', '.join(known)}.")
        Augmentation(**value)
    return value


def _options(name: str, value: Any) -> Any:
    """Validate options of `generate` by making a `GenerationConfig` of them."""
    if value is None:
        return None
    require(isinstance(value, Mapping), name, value, "a table of options of generate, such as { num_beams = 3 }")
    known = [row.name for row in fields(GenerationConfig)]
    if unknown := value.keys() - set(known):
        raise ValueError(f"generation has no {', '.join(sorted(unknown))}, only {', '.join(known)}.")
    GenerationConfig(**value)
    return value


def _frozen(name: str, value: Any) -> str:
    """Validate "none", "vision" or "vision:BLOCKS"."""
    good = isinstance(value, str) and re.fullmatch(r"none|vision(:\d{1,3})?", value)
    require(good, name, value, "none, vision or vision:N with a number of blocks")
    return str(value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train; docs/training.md says what each setting means. None leaves it to the model or the task.

    Raises:
        ValueError: Naming the first setting whose value cannot work.

    Example:
        >>> Settings(epochs=3, learning_rate=2e-5).epochs
        3
    """

    epochs: int = setting(5, whole_number, least=1)
    max_steps: int = setting(0, whole_number)
    batch_size: int = setting(32, whole_number, least=1)
    accumulation: int = setting(1, whole_number, least=1)
    drop_last: bool = setting(True, flag)
    seed: int = setting(42, whole_number)

    learning_rate: float = setting(1e-5, number, above=0, most=MAX_RATE)
    min_learning_rate: float = setting(0.0, number, least=0)
    schedule: str = setting("cosine", choice, choices=("cosine", "decay", "constant"))
    schedule_every: str = setting("epoch", choice, choices=("epoch", "step"))
    decay_rate: float = setting(0.9, number, above=0, most=1)
    warmup_steps: int = setting(0, whole_number)
    warmup_learning_rate: float = setting(0.0, number, least=0, most=MAX_RATE)

    weight_decay: float = setting(0.05, number, least=0)
    weight_decay_on: str = setting("all", choice, choices=("all", "matrices"))
    beta1: float = setting(0.9, number, least=0, below=1)
    beta2: float = setting(0.999, number, least=0, below=1)
    epsilon: float = setting(1e-8, number, above=0)
    clip_norm: float = setting(0.0, number, least=0)
    precision: str = setting("float32", choice, choices=("float32", "bfloat16", "float16"))
    gradient_checkpointing: bool = setting(False, flag)
    vit_ckpt_layer: int = setting(0, whole_number)
    freeze: str = setting("none", _frozen)
    lora: int = setting(0, whole_number, most=1024)
    parallel: str = setting("ddp", choice, choices=("ddp", "fsdp"))
    device: str | None = setting(None, text, optional=True)

    alpha: float = setting(0.4, number, least=0, most=1)
    alpha_epochs: float = setting(2.0, number, least=0)
    queue_size: int | None = setting(None, whole_number, least=1, optional=True)
    momentum: float | None = setting(None, number, least=0, below=1, optional=True)
    negative_all_rank: bool | None = setting(None, flag, optional=True)
    num_labels: int | None = setting(None, whole_number, least=2, optional=True)

    image_size: int | None = setting(None, whole_number, least=1, optional=True)
    label_smoothing: float | None = setting(None, number, least=0, below=1, optional=True)
    dropout: float | None = setting(None, number, least=0, below=1, optional=True)
    drop_path: float | None = setting(None, number, least=0, below=1, optional=True)

    prompt: str = setting("", text)
    max_text_length: int | None = setting(None, whole_number, least=3, optional=True)
    augmentation: bool | Mapping[str, Any] = setting(True, _augmentation)
    background: str | None = setting(None, text, optional=True)
    synthetic_share: float | None = setting(None, number, least=0, most=1, optional=True)
    fast_decode: bool = setting(False, flag)
    workers: int = setting(2, whole_number)
    cache: int = setting(0, whole_number)

    report_to: str = setting("", text)
    log_every: int = setting(10, whole_number, least=1)
    save_every: int = setting(0, whole_number)
    keep: int = setting(2, whole_number, least=1)
    held_out: float = setting(0.0, number, least=0, most=0.5)
    validate_by: str = setting("metric", choice, choices=("metric", "loss"))
    validate_every: int = setting(1, whole_number, least=1)
    patience: int = setting(0, whole_number)
    generation: Mapping[str, Any] | None = setting(None, _options)
    replay: int = setting(0, whole_number, most=100)

    def __post_init__(self) -> None:
        for row in fields(self):
            if row.default is None and getattr(self, row.name) == MODEL:
                object.__setattr__(self, row.name, None)
        check_settings(self)
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must not be above learning_rate, got {self.min_learning_rate} > "
                f"{self.learning_rate}."
            )

    def augment(self, task: str) -> Augmentation | None:
        """Return how pictures are augmented in the training of a task; None leaves them as they are."""
        if self.augmentation is False:
            return None
        return replace(Augmentation.original(task), **({} if self.augmentation is True else self.augmentation))

    def model_settings(self) -> dict[str, Any]:
        """Return what these settings override in a model's configuration, as `from_pretrained` takes it."""
        text = {
            "label_smoothing": self.label_smoothing,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }
        vision = {"drop_path_rate": self.drop_path}
        whole = {name: getattr(self, name) for name in ("queue_size", "momentum", "negative_all_rank", "num_labels")}
        given: dict[str, Any] = {name: value for name, value in whole.items() if value is not None}
        for part, values in (("text_config", text), ("vision_config", vision)):
            if values := {name: value for name, value in values.items() if value is not None}:
                given[part] = values
        return given

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are not None, as a TOML file holds them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_settings(
    task: str,
    config: str | Path | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
    recipe: str | None = None,
) -> Settings:
    """Return the settings of a preset, overridden by a TOML file and then by each of `overrides`.

    Args:
        task: A name in `blip_core.tasks.TASKS`.
        config: A TOML file with any of the settings.
        overrides: Settings by name, the last one winning; tables such as `augmentation` are merged.
        recipe: The preset, a name in `recipes(task)`, or the task's own. Unless given, and for "auto", the task's own
            without what the paper's hardware and data asked for (`OF_PAPER`).

    Raises:
        ValueError: For an unknown task, recipe or setting, a value that cannot work, and a file that is not TOML.
        OSError: For a file that is missing.
    """
    return Settings(**merged_settings([preset_values(task, recipe), *given_settings(config, overrides)]))


def preset_values(task: str, recipe: str | None = None) -> dict[str, Any]:
    """Return the values of a preset as its file holds them; raises as `read_settings`."""
    preset = get_task(task).preset
    if recipe not in (None, AUTO, task):
        if recipe not in recipes(task):
            raise ValueError(f"recipe must be one of {', '.join([AUTO, *recipes(task)])} for {task}, got {recipe!r}.")
        preset = PRESETS / f"{recipe}.toml"
    values = _read_toml(preset) if preset else {}
    return {name: value for name, value in values.items() if name not in OF_PAPER or recipe not in (None, AUTO)}


def given_settings(config: str | Path | None, overrides: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what goes over a preset, in order: values of a TOML file, `overrides`; raises as `read_settings`."""
    return [*([] if config is None else [_read_toml(Path(config))]), *overrides]


def merged_settings(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return settings by name, the last of the sources winning; tables are merged. Raises as `read_settings`."""
    values: dict[str, Any] = {}
    for source in sources:
        known = {row.name for row in fields(Settings)}
        if unknown := source.keys() - known:
            raise ValueError(
                f"There is no setting {', '.join(map(repr, sorted(unknown)))}; the settings are "
                f"{', '.join(sorted(known))}."
            )
        for name, value in source.items():
            old = values.get(name)
            values[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return values


def parse_setting(text: str) -> dict[str, Any]:
    """Read `key=value` as a line of TOML; a value that TOML does not know, such as an unquoted word, is a text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"a setting must be KEY=VALUE, got {text!r}.")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return {key.strip(): value}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from None
