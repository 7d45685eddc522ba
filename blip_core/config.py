"""Configurations of BLIP: plain dataclasses, validated on construction, stored as Hugging Face `config.json`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from blip_core.config_mixin import ConfigMixin, json_object, keep_unknown
from blip_core.validators import Validator, check_settings, choice, describe, flag, number, setting, whole_number

C = TypeVar("C", bound="_Config")

ACTIVATIONS = (
    "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu",
    "relu", "silu", "swish", "mish", "tanh", "sigmoid", "linear",
)  # fmt: skip
"""Names that `hidden_act` may take. `gelu` and `gelu_python` are exact (erf), `gelu_new`, `gelu_fast` and
`gelu_pytorch_tanh` the tanh approximation, `quick_gelu` is x * sigmoid(1.702 x)."""

SIZE: Validator = partial(whole_number, least=1, most=2**31 - 1)
LAYERS: Validator = partial(whole_number, least=1, most=1000)  # each is a few rows of the weight table
TOKEN: Validator = partial(whole_number, least=0, most=2**31 - 1)
RATE: Validator = partial(number, least=0, below=1)
SCALE: Validator = partial(number, least=0)
ACTIVATION: Validator = partial(choice, choices=ACTIVATIONS)
KEPT = "Kept for Hugging Face files; BLIP does not read it."
ATTENTION_DROPOUT = "Dropout of attention probabilities in training, in [0, 1)."

UNSET = {
    "is_encoder_decoder": False, "return_dict": True, "output_attentions": False, "output_hidden_states": False,
    "torchscript": False, "problem_type": None, "tie_word_embeddings": True,
}  # fmt: skip
"""What programs read of a configuration of transformers whether or not it was set."""


@dataclass(kw_only=True)
class _Config(ConfigMixin):
    """What the three configurations share: validation, docstrings made of the fields, sections of `config.json`."""

    model_type: ClassVar[str] = ""
    part: ClassVar[str | None] = None
    unset: ClassVar[Mapping[str, Any]] = UNSET
    sub_configs: ClassVar[Mapping[str, type[_Config]]] = {}

    def __init_subclass__(cls) -> None:
        cls.constants = {"model_type": cls.model_type}
        describe(cls, "Args")

    def __post_init__(self) -> None:
        check_settings(self, f"{type(self).__name__}.")

    def get_text_config(self) -> BlipTextConfig:
        """Return the configuration of the text transformer, which trainers read; of a part, the part itself."""
        text: BlipTextConfig = vars(self).get("text_config", self)
        return text

    @classmethod
    def _section(cls, file: Path, values: dict[str, Any]) -> dict[str, Any] | None:
        if cls.part and values.get("model_type") == "blip":
            values = json_object(file, values, cls.part)
        found = values.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(f"{file} describes a model of type {found!r}; {cls.__name__} needs {cls.model_type!r}.")
        return values


@dataclass(kw_only=True)
class _TransformerConfig(_Config):
    """What the text and the vision transformer share. `presets` are the original's settings by size."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    hidden_size: int = setting(768, SIZE, "Width of the hidden states, a multiple of `num_attention_heads`.")
    intermediate_size: int = setting(3072, SIZE, "Width of the feed-forward layers.")
    num_hidden_layers: int = setting(12, LAYERS, "Transformer layers, at most 1000.")
    num_attention_heads: int = setting(12, SIZE, "Attention heads of each layer.")
    hidden_act: str = setting("gelu", ACTIVATION, "Activation of the feed-forward layers, one of `ACTIVATIONS`.")
    projection_dim: int = setting(512, SIZE, KEPT)
    layer_norm_eps: float = setting(1e-5, SCALE, "Added to the variance in each LayerNorm.")
    initializer_range: float = setting(0.02, SCALE, "Standard deviation of random initial weights.")

    def __post_init__(self) -> None:
        super().__post_init__()
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            raise ValueError(
                f"{type(self).__name__}.num_attention_heads must divide hidden_size, got {heads} heads for a width of "
                f"{width}."
            )

    @classmethod
    def base(cls, **overrides: Any) -> Self:
        """Return the configuration beside ViT-B/16 in the original checkpoints.

        Args:
            **overrides: Fields to set otherwise.
        """
        return cls(**{**cls.presets["base"], **overrides})

    @classmethod
    def large(cls, **overrides: Any) -> Self:
        """Return the configuration beside ViT-L/16 in the original checkpoints.

        Args:
            **overrides: Fields to set otherwise.
        """
        return cls.base(**{**cls.presets["large"], **overrides})


@keep_unknown
@dataclass(kw_only=True)
class BlipTextConfig(_TransformerConfig):
    """Configure the text transformer: BERT with cross-attention, as encoder or decoder (BLIP section 3.1).

    The defaults are those of transformers 4.57.6; `base` and `large` are the original's.

    {fields}

    Raises:
        ValueError: A value cannot work; the message names the field.
    """

    model_type: ClassVar[str] = "blip_text_model"
    part: ClassVar[str | None] = "text_config"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "base": {
            "num_attention_heads": 12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "label_smoothing": 0.1,
        },
        "large": {"encoder_hidden_size": 1024},
    }
    num_attention_heads: int = setting(8, SIZE, "Attention heads of each layer.")
    projection_dim: int = setting(768, SIZE, KEPT)
    layer_norm_eps: float = setting(1e-12, SCALE, "Added to the variance in each LayerNorm.")
    vocab_size: int = setting(30524, SIZE, "Tokens of the vocabulary, `[DEC]` and `[ENC]` included.")
    encoder_hidden_size: int = setting(768, SIZE, "Width of the states that cross-attention reads.")
    max_position_embeddings: int = setting(512, SIZE, "Longest text in tokens.")
    hidden_dropout_prob: float = setting(0.0, RATE, "Dropout of embeddings and layer outputs in training, in [0, 1).")
    attention_probs_dropout_prob: float = setting(0.0, RATE, ATTENTION_DROPOUT)
    bos_token_id: int = setting(30522, TOKEN, "First token of a generated text, `[DEC]`.")
    eos_token_id: int = setting(2, None, "Kept for Hugging Face files; `sep_token_id` ends a generated text.")
    pad_token_id: int = setting(0, TOKEN, "Padding.")
    sep_token_id: int = setting(102, TOKEN, "Last token of a text, `[SEP]`.")
    is_decoder: bool = setting(True, flag, "False leaves cross-attention out.")
    use_cache: bool = setting(True, None, "Kept for Hugging Face files; generation always uses its cache.")
    label_smoothing: float = setting(0.0, RATE, "Smoothing of the language-modelling loss, in [0, 1).")
    tie_word_embeddings: bool = setting(
        True, flag, "Project to the vocabulary by the word embeddings; False gives the projection weights of its own."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"BlipTextConfig.pad_token_id must be below vocab_size, got token {self.pad_token_id} of "
                f"{self.vocab_size}."
            )


@keep_unknown
@dataclass(kw_only=True)
class BlipVisionConfig(_TransformerConfig):
    """Configure the vision transformer (BLIP section 3.1).

    The defaults are those of transformers 4.57.6; `base` and `large` are the original's, with another
    `layer_norm_eps`.

    {fields}

    Raises:
        ValueError: A value cannot work; the message names the field.
    """

    model_type: ClassVar[str] = "blip_vision_model"
    part: ClassVar[str | None] = "vision_config"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "base": {"layer_norm_eps": 1e-6, "initializer_range": 0.02},
        "large": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "drop_path_rate": 0.1,
        },
    }
    initializer_range: float = setting(1e-10, SCALE, "Standard deviation of random initial weights.")
    num_channels: int = setting(3, SIZE, "Channels of a picture.")
    image_size: int = setting(384, SIZE, "Height and width of a picture in pixels, a multiple of `patch_size`.")
    patch_size: int = setting(16, SIZE, "Height and width of a patch in pixels.")
    attention_dropout: float = setting(0.0, RATE, ATTENTION_DROPOUT)
    drop_path_rate: float = setting(
        0.0, RATE, "Stochastic depth in training, in [0, 1): the share of pictures that skip the last block. It grows "
        "linearly from 0 in the first block.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"BlipVisionConfig.image_size must be a multiple of patch_size, "
                f"got {self.image_size} pixels in patches of {self.patch_size}."
            )

    @property
    def num_positions(self) -> int:
        """Tokens of one picture: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@keep_unknown
@dataclass(kw_only=True)
class BlipConfig(_Config):
    """Configure a whole BLIP model: its text and vision transformers and what joins them.

    {fields}

    Raises:
        ValueError: A value cannot work; the message names the field.

    Example:
        >>> config = BlipConfig.base(image_size=224)
        >>> config.vision_config.num_positions
        197
    """

    model_type: ClassVar[str] = "blip"
    sub_configs: ClassVar[Mapping[str, type[_Config]]] = {
        "text_config": BlipTextConfig,
        "vision_config": BlipVisionConfig,
    }
    text_config: BlipTextConfig = setting(
        None, None, "A `BlipTextConfig`, a dictionary of its fields, or None for the defaults. It is copied, and its "
        "`encoder_hidden_size` becomes the width of the vision model.",
    )  # fmt: skip
    vision_config: BlipVisionConfig = setting(None, None, "A `BlipVisionConfig`, a dictionary or None, as above.")
    projection_dim: int = setting(512, SIZE, "Width of the features of `BlipModel`.")
    logit_scale_init_value: float = setting(2.6592, number, "Initial log of the scale of `BlipModel`'s similarities.")
    image_text_hidden_size: int = setting(256, SIZE, "Width of the retrieval features.")
    label_smoothing: float = setting(0.0, RATE, "Kept for Hugging Face files; see `text_config.label_smoothing`.")
    initializer_factor: float = setting(1.0, number, "Kept for Hugging Face files.")
    initializer_range: float = setting(0.02, SCALE, "Standard deviation of random initial weights.")
    enc_token_id: int | None = setting(
        None, TOKEN, "Replaces the first token of image-grounded text, as the original does with `[ENC]` (30523). None "
        "leaves it as given, as Hugging Face checkpoints expect.", optional=True,
    )  # fmt: skip
    queue_size: int = setting(57600, SIZE, "Pictures and texts whose features contrastive training keeps.")
    momentum: float = setting(0.995, RATE, "Share of themselves that momentum encoders keep in each step, in [0, 1).")
    num_labels: int = setting(2, SIZE, "Classes of `BlipForClassification`.")
    negative_all_rank: bool = setting(
        True, flag, "Take hard negatives from the batches of all processes; False: from the own process's batch."
    )

    def __post_init__(self) -> None:
        self.text_config = _part(BlipTextConfig, self.text_config)
        self.vision_config = _part(BlipVisionConfig, self.vision_config)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        super().__post_init__()

    @classmethod
    def from_text_vision_configs(
        cls, text_config: BlipTextConfig, vision_config: BlipVisionConfig, **kwargs: Any
    ) -> Self:
        """Join a text and a vision configuration.

        Args:
            text_config: The text configuration.
            vision_config: The vision configuration.
            **kwargs: Other fields of `BlipConfig`.
        """
        return cls(text_config=text_config, vision_config=vision_config, **kwargs)

    def answer_config(self) -> BlipTextConfig:
        """Return the text configuration of the question answerer's decoder, which attends to the question's states.

        (transformers gives it the vision width, so that a ViT-L question answerer cannot exist there.)
        """
        config = copy.deepcopy(self.text_config)
        config.encoder_hidden_size = config.hidden_size
        return config

    @classmethod
    def base(cls, *, image_size: int = 384, **overrides: Any) -> Self:
        """Return the original's base size: ViT-B/16, 12 text heads, LayerNorm eps 1e-6, `[ENC]`.

        Args:
            image_size: Height and width of pictures in pixels.
            **overrides: Fields to set otherwise.
        """
        return cls._of_size("base", image_size, overrides)

    @classmethod
    def large(cls, *, image_size: int = 384, **overrides: Any) -> Self:
        """Return the original's large size, ViT-L/16; arguments as of `base`."""
        return cls._of_size("large", image_size, overrides)

    @classmethod
    def _of_size(cls, size: str, image_size: int, overrides: dict[str, Any]) -> Self:
        text, vision = getattr(BlipTextConfig, size)(), getattr(BlipVisionConfig, size)(image_size=image_size)
        return cls(**{"enc_token_id": 30523, "text_config": text, "vision_config": vision, **overrides})


def _part(cls: type[C], value: C | dict[str, Any] | None) -> C:
    if value is None:
        return cls()
    if isinstance(value, cls):
        return copy.deepcopy(value)
    return cls.from_dict(value)  # type: ignore[arg-type]
