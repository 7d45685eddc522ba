"""The settings of a training run: the paper's as presets, each to be changed in a TOML file or by name."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from blip_core.datasets import Augmentation
from blip_core.tasks import get_task

MODEL = "model"
"""The value of an optional setting that leaves it to the model."""
MAX_RATE = 1e30
"""Beyond it optimizers stop for numbers that float32 has not, in place of a loss that is not finite."""
FREE = ("max_steps", "workers", "cache", "log_every", "save_every", "keep", "device")
"""What may change when a run is gone on with: it does not touch the result."""


def _setting(default: Any, allowed: str, good: Callable[[Any], bool], optional: bool = False) -> Any:
    return field(default=default, metadata={"allowed": allowed, "good": good, "optional": optional})


def _whole(default: int | None, least: int) -> Any:
    def good(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return _setting(default, f"a whole number of at least {least}", good, default is None)


def _number(default: float | None, allowed: str, good: Callable[[float], bool]) -> Any:
    def check(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and good(value)

    return _setting(default, allowed, check, default is None)


def _positive(default: float) -> Any:
    return _number(default, "a number above 0", lambda value: value > 0)


def _at_least_0(default: float) -> Any:
    return _number(default, "a number of at least 0", lambda value: value >= 0)


def _fraction(default: float | None) -> Any:
    return _number(default, "a number from 0 up to, but not, 1", lambda value: 0 <= value < 1)


def _choice(default: str, *choices: str) -> Any:
    return _setting(default, "one of " + ", ".join(choices), lambda value: value in choices)


def _switch(default: bool) -> Any:
    return _setting(default, "true or false", lambda value: isinstance(value, bool))


def _switch_or_table(default: bool) -> Any:
    return _setting(default, "true, false or a table", lambda value: isinstance(value, bool | dict))


def _text(default: str | None) -> Any:
    return _setting(default, "a text", lambda value: isinstance(value, str), default is None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. What each setting means is said in docs/training.md; None leaves it to the model or the task.

    Raises `ValueError` naming the first setting whose value cannot work.
    """

    epochs: int = _whole(5, 1)
    max_steps: int = _whole(0, 0)
    batch_size: int = _whole(32, 1)
    accumulation: int = _whole(1, 1)
    seed: int = _whole(42, 0)

    learning_rate: float = _number(1e-5, f"a number above 0, up to {MAX_RATE:.0e}", lambda rate: 0 < rate <= MAX_RATE)
    min_learning_rate: float = _at_least_0(0.0)
    schedule: str = _choice("cosine", "cosine", "decay", "constant")
    schedule_every: str = _choice("epoch", "epoch", "step")
    decay_rate: float = _number(0.9, "a number above 0 and up to 1", lambda value: 0 < value <= 1)
    warmup_steps: int = _whole(0, 0)
    warmup_learning_rate: float = _number(0.0, f"a number from 0 to {MAX_RATE:.0e}", lambda rate: 0 <= rate <= MAX_RATE)

    weight_decay: float = _at_least_0(0.05)
    weight_decay_on: str = _choice("all", "all", "matrices")
    beta1: float = _fraction(0.9)
    beta2: float = _fraction(0.999)
    epsilon: float = _positive(1e-8)
    clip_norm: float = _at_least_0(0.0)
    precision: str = _choice("float32", "float32", "bfloat16", "float16")
    gradient_checkpointing: bool = _switch(False)
    freeze_vision: bool = _switch(False)
    parallel: str = _choice("ddp", "ddp", "fsdp")
    device: str | None = _text(None)

    alpha: float = _number(0.4, "a number from 0 to 1", lambda value: 0 <= value <= 1)
    alpha_epochs: float = _at_least_0(2.0)
    queue_size: int | None = _whole(None, 1)
    momentum: float | None = _fraction(None)

    image_size: int | None = _whole(None, 1)
    label_smoothing: float | None = _fraction(None)
    dropout: float | None = _fraction(None)
    drop_path: float | None = _fraction(None)

    prompt: str = _text("")
    max_text_length: int | None = _whole(None, 3)
    augmentation: bool | Mapping[str, Any] = _switch_or_table(True)
    background: str | None = _text(None)
    workers: int = _whole(2, 0)
    cache: int = _whole(0, 0)

    log_every: int = _whole(10, 1)
    save_every: int = _whole(0, 0)
    keep: int = _whole(2, 1)
    validate_by: str = _choice("metric", "metric", "loss")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, rule = getattr(self, setting.name), setting.metadata
            if value == MODEL and rule["optional"]:
                object.__setattr__(self, setting.name, None)
            elif not (value is None and rule["optional"]) and not rule["good"](value):
                raise ValueError(f"{setting.name} must be {rule['allowed']}, got {value!r}.")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must not be above learning_rate, got {self.min_learning_rate} > "
                f"{self.learning_rate}."
            )
        self.augment("caption")

    def augment(self, task: str) -> Augmentation | None:
        """How pictures are changed at random in the training of a task; None leaves them as they are."""
        if self.augmentation is False:
            return None
        over = {} if isinstance(self.augmentation, bool) else dict(self.augmentation)
        known = [f.name for f in fields(Augmentation)]
        if unknown := over.keys() - set(known):
            raise ValueError(f"augmentation has no {', '.join(sorted(unknown))}, only {', '.join(known)}.")
        return replace(Augmentation.original(task), **over)

    def model_settings(self) -> dict[str, Any]:
        """What these settings override in a model's configuration, as `from_pretrained` takes it."""
        text = {
            "label_smoothing": self.label_smoothing,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }
        vision = {"drop_path_rate": self.drop_path}
        whole = {"queue_size": self.queue_size, "momentum": self.momentum}
        given: dict[str, Any] = {name: value for name, value in whole.items() if value is not None}
        for part, values in (("text_config", text), ("vision_config", vision)):
            if values := {name: value for name, value in values.items() if value is not None}:
                given[part] = values
        return given

    def to_dict(self) -> dict[str, Any]:
        """The settings that are not None, as a TOML file holds them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_settings(task: str, config: str | Path | None = None, overrides: Sequence[Mapping[str, Any]] = ()) -> Settings:
    """The preset of a task, over it those of a TOML file, over them each of `overrides`.

    Raises `ValueError` for an unknown task or setting, for a value that cannot work, and for a file that is not TOML;
    `OSError` for one that is missing.
    """
    preset = get_task(task).preset
    values = _read_toml(preset) if preset else {}
    for source in ([] if config is None else [_read_toml(Path(config))]) + list(overrides):
        known = {setting.name for setting in fields(Settings)}
        if unknown := source.keys() - known:
            raise ValueError(
                f"There is no setting {', '.join(map(repr, sorted(unknown)))}; the settings are "
                f"{', '.join(sorted(known))}."
            )
        for name, value in source.items():
            old = values.get(name)
            values[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return Settings(**values)


def parse_setting(text: str) -> dict[str, Any]:
    """Read `key=value` as a line of TOML; a value that is none, such as an unquoted word, is a text."""
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
