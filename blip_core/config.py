"""Configurations of BLIP: plain dataclasses, checked on construction, stored as Hugging Face `config.json`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from blip_core.files import read_json, write_json
from blip_core.hub import or_shipped, resolve_folder

C = TypeVar("C", bound="_Config")

ACTIVATIONS = (
    "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu",
    "relu", "silu", "swish", "mish", "tanh", "sigmoid", "linear",
)  # fmt: skip
"""Names that `hidden_act` may take. `gelu` and `gelu_python` are exact (erf), `gelu_new`, `gelu_fast` and
`gelu_pytorch_tanh` the tanh approximation, `quick_gelu` is x * sigmoid(1.702 x)."""


@dataclass(kw_only=True)
class _Config:
    """What the three configurations share: reading, writing, and keys that they do not know.

    Unknown keys of a `config.json` are kept in `extra` and written back; an unknown keyword argument of the
    constructor is a `TypeError`, as for any dataclass.
    """

    model_type: ClassVar[str]
    extra: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise `ValueError` naming the first field whose value cannot work."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dictionary as `config.json` holds it; keys without a field go to `extra`.

        Raises `ValueError` for a value that cannot work or has the wrong type.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} needs a dictionary of settings, got {type(values).__name__}.")
        names = {f.name for f in fields(cls) if f.init}
        config = cls(**{k: copy.deepcopy(v) for k, v in values.items() if k in names})
        config.extra = {k: copy.deepcopy(v) for k, v in values.items() if k not in names and k != "model_type"}
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: every field, every kept unknown key, and `model_type`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        plain = {k: v.to_dict() if isinstance(v, _Config) else copy.deepcopy(v) for k, v in own.items()}
        return {**copy.deepcopy(self.extra), **plain, "model_type": self.model_type}

    def to_json_string(self) -> str:
        """Return `to_dict()` as indented JSON with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path | None = None, *, revision: str | None = None) -> Self:
        """Read `config.json` of a folder, of a Hub repository, or a JSON file given by its path.

        Without a name it is that of the model in the package. A text or vision configuration is also found inside the
        `config.json` of a whole model.
        Raises `OSError` where there is no such file and `ValueError` for one that is not a configuration.
        """
        name_or_path = or_shipped(name_or_path)
        path = Path(name_or_path)
        if not path.is_file():
            path = resolve_folder(name_or_path, revision=revision, patterns=["config.json"]) / "config.json"
        values = read_json(path)
        part = {"blip_text_model": "text_config", "blip_vision_model": "vision_config"}.get(cls.model_type)
        if part and values.get("model_type") == "blip":
            values = values.get(part) or {}
        found = values.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(f"{path} describes a model of type {found!r}; {cls.__name__} needs {cls.model_type!r}.")
        try:
            return cls.from_dict(values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made if needed; an existing file is replaced atomically."""
        write_json(Path(folder) / "config.json", self.to_dict())

    def _check(self, names: Sequence[str], good: Callable[[Any], bool], allowed: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not good(value):
                raise ValueError(f"{type(self).__name__}.{name} must be {allowed}, got {value!r}.")

    def _positive(self, *names: str) -> None:
        self._check(names, lambda value: isinstance(value, int) and value > 0, "a positive whole number")

    def _fraction(self, *names: str) -> None:
        self._check(names, lambda value: 0 <= value < 1, "in [0, 1)")

    def _number(self, *names: str) -> None:
        self._check(names, lambda value: value >= 0, "a number of at least 0")

    def _heads_and_activation(self, hidden_size: int, heads: int, activation: str) -> None:
        name = type(self).__name__
        if hidden_size % heads:
            raise ValueError(
                f"{name}.num_attention_heads must divide hidden_size, got {heads} heads for a width of {hidden_size}."
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"{name}.hidden_act must be one of {', '.join(ACTIVATIONS)}; got {activation!r}.")


@dataclass(kw_only=True)
class BlipTextConfig(_Config):
    """The text transformer (BERT with cross-attention), as encoder or decoder.

    `encoder_hidden_size` is the width of the states that cross-attention reads. `is_decoder=False` leaves
    cross-attention out. `sep_token_id`, not `eos_token_id`, ends a generated text. `label_smoothing` applies to the
    language-modelling loss. `projection_dim` and `use_cache` are kept for Hugging Face files; BLIP does not read them.
    Source: BLIP section 3.1; defaults of transformers 4.57.6.
    """

    model_type: ClassVar[str] = "blip_text_model"
    vocab_size: int = 30524
    hidden_size: int = 768
    encoder_hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 512
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    bos_token_id: int = 30522
    eos_token_id: int = 2
    pad_token_id: int = 0
    sep_token_id: int = 102
    is_decoder: bool = True
    use_cache: bool = True
    label_smoothing: float = 0.0

    def validate(self) -> None:
        self._positive(
            "vocab_size", "hidden_size", "encoder_hidden_size", "intermediate_size", "projection_dim",
            "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
        )  # fmt: skip
        self._fraction("hidden_dropout_prob", "attention_probs_dropout_prob", "label_smoothing")
        self._number("layer_norm_eps", "initializer_range")
        self._heads_and_activation(self.hidden_size, self.num_attention_heads, self.hidden_act)
        tokens = ("bos_token_id", "pad_token_id", "sep_token_id")
        self._check(tokens, lambda value: isinstance(value, int) and value >= 0, "a token id of at least 0")

    @classmethod
    def base(cls, **overrides: Any) -> Self:
        """The text model of every original checkpoint: 12 heads, dropout and label smoothing of 0.1 in training."""
        original = {
            "num_attention_heads": 12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "label_smoothing": 0.1,
        }
        return cls(**{**original, **overrides})

    @classmethod
    def large(cls, **overrides: Any) -> Self:
        """The text model beside ViT-L: the base one, reading vision states of width 1024."""
        return cls.base(**{"encoder_hidden_size": 1024, **overrides})


@dataclass(kw_only=True)
class BlipVisionConfig(_Config):
    """The vision transformer. Pictures are `image_size` x `image_size` pixels in `num_channels` channels.

    `drop_path_rate` is that of stochastic depth in the last block, which in training leaves out what the block adds
    to this share of the pictures; it grows from 0 in the first. `projection_dim` is kept for Hugging Face files.
    Source: BLIP section 3.1; defaults of transformers 4.57.6 (the original's `layer_norm_eps` is 1e-6, see `base`).
    """

    model_type: ClassVar[str] = "blip_vision_model"
    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 384
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    initializer_range: float = 1e-10

    def validate(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "projection_dim", "num_channels", "image_size", "patch_size")
        self._positive(*sizes, "num_hidden_layers", "num_attention_heads")
        self._fraction("attention_dropout", "drop_path_rate")
        self._number("layer_norm_eps", "initializer_range")
        self._heads_and_activation(self.hidden_size, self.num_attention_heads, self.hidden_act)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"BlipVisionConfig.image_size must be a multiple of patch_size, "
                f"got {self.image_size} pixels in patches of {self.patch_size}."
            )

    @property
    def num_positions(self) -> int:
        """Tokens of one picture: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @classmethod
    def base(cls, **overrides: Any) -> Self:
        """ViT-B/16 of the original checkpoints."""
        return cls(**{"layer_norm_eps": 1e-6, "initializer_range": 0.02, **overrides})

    @classmethod
    def large(cls, **overrides: Any) -> Self:
        """ViT-L/16 of the original checkpoints, with its stochastic depth of 0.1 in training."""
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        return cls.base(**{**sizes, "drop_path_rate": 0.1, **overrides})


@dataclass(kw_only=True)
class BlipConfig(_Config):
    """A whole BLIP model: a text and a vision configuration and what joins them.

    `text_config` and `vision_config` are configurations, dictionaries, or None for the defaults; they are copied.
    The text model's `encoder_hidden_size` is set to the vision width. `projection_dim` is the width of `BlipModel`'s
    features, `image_text_hidden_size` that of the retrieval features. `enc_token_id` replaces the first token of
    image-grounded text, as the original does with `[ENC]` (30523); None leaves it as given (Hugging Face checkpoints).
    The language-modelling loss is smoothed by `text_config.label_smoothing`; `label_smoothing` and
    `initializer_factor` here are kept for Hugging Face files. Contrastive training keeps the features of the last
    `queue_size` pictures and texts, from encoders that keep the share `momentum` of themselves in each step; its hard
    negatives come from the batch of all processes, with `negative_all_rank=False` from that of each process.
    """

    model_type: ClassVar[str] = "blip"
    text_config: BlipTextConfig = None  # type: ignore[assignment]  # None and dictionaries become configurations below
    vision_config: BlipVisionConfig = None  # type: ignore[assignment]
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    image_text_hidden_size: int = 256
    label_smoothing: float = 0.0
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    enc_token_id: int | None = None
    queue_size: int = 57600
    momentum: float = 0.995
    negative_all_rank: bool = True

    def __post_init__(self) -> None:
        self.text_config = _part(BlipTextConfig, self.text_config)
        self.vision_config = _part(BlipVisionConfig, self.vision_config)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        self.validate()

    def validate(self) -> None:
        self._positive("projection_dim", "image_text_hidden_size", "queue_size")
        self._number("initializer_range")
        self._fraction("label_smoothing", "momentum")
        if not isinstance(self.negative_all_rank, bool):
            raise ValueError(f"BlipConfig.negative_all_rank must be True or False, got {self.negative_all_rank!r}.")

    @classmethod
    def from_text_vision_configs(
        cls, text_config: BlipTextConfig, vision_config: BlipVisionConfig, **kwargs: Any
    ) -> Self:
        """Join a text and a vision configuration; further keywords are fields of `BlipConfig`."""
        return cls(text_config=text_config, vision_config=vision_config, **kwargs)

    def answer_config(self) -> BlipTextConfig:
        """The text configuration of the question answerer's decoder, which attends to the question's states.

        (transformers gives it the vision width, so that a ViT-L question answerer cannot exist there.)
        """
        config = copy.deepcopy(self.text_config)
        config.encoder_hidden_size = config.hidden_size
        return config

    @classmethod
    def base(cls, *, image_size: int = 384, **overrides: Any) -> Self:
        """The original's base size (ViT-B/16, 12 text heads, LayerNorm eps 1e-6, `[ENC]`); pictures of 384 pixels."""
        parts = {"text_config": BlipTextConfig.base(), "vision_config": BlipVisionConfig.base(image_size=image_size)}
        return cls(**{"enc_token_id": 30523, **parts, **overrides})

    @classmethod
    def large(cls, *, image_size: int = 384, **overrides: Any) -> Self:
        """The original's large size (ViT-L/16); otherwise as `base`."""
        parts = {"text_config": BlipTextConfig.large(), "vision_config": BlipVisionConfig.large(image_size=image_size)}
        return cls(**{"enc_token_id": 30523, **parts, **overrides})


def _part(cls: type[C], value: C | dict[str, Any] | None) -> C:
    if value is None:
        return cls()
    if isinstance(value, cls):
        return copy.deepcopy(value)
    return cls.from_dict(value)  # type: ignore[arg-type]
