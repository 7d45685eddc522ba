"""Configurations of BLIP: plain dataclasses, validated on construction, stored as Hugging Face `config.json`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from blip_core.config_mixin import ConfigMixin, json_object
from blip_core.validators import Validator, check_settings, choice, flag, number, setting, whole_number

C = TypeVar("C", bound="_Config")

ACTIVATIONS = (
    "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu",
    "relu", "silu", "swish", "mish", "tanh", "sigmoid", "linear",
)  # fmt: skip
"""Names that `hidden_act` may take. `gelu` and `gelu_python` are exact (erf), `gelu_new`, `gelu_fast` and
`gelu_pytorch_tanh` the tanh approximation, `quick_gelu` is x * sigmoid(1.702 x)."""

SIZE: Validator = partial(whole_number, least=1)
TOKEN: Validator = partial(whole_number, least=0)
RATE: Validator = partial(number, least=0, below=1)
SCALE: Validator = partial(number, least=0)
ACTIVATION: Validator = partial(choice, choices=ACTIVATIONS)


@dataclass(kw_only=True)
class _Config(ConfigMixin):
    """What the three configurations share: validation, and the place of each in `config.json`."""

    model_type: ClassVar[str]
    part: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        cls.constants = {"model_type": cls.model_type}

    def __post_init__(self) -> None:
        check_settings(self, f"{type(self).__name__}.")

    @classmethod
    def _section(cls, file: Path, values: dict[str, Any]) -> dict[str, Any] | None:
        if cls.part and values.get("model_type") == "blip":
            values = json_object(file, values, cls.part)
        found = values.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(f"{file} describes a model of type {found!r}; {cls.__name__} needs {cls.model_type!r}.")
        return values


def _check_heads(config: BlipTextConfig | BlipVisionConfig) -> None:
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        raise ValueError(
            f"{type(config).__name__}.num_attention_heads must divide hidden_size, got {heads} heads for a width of "
            f"{width}."
        )


@dataclass(kw_only=True)
class BlipTextConfig(_Config):
    """Configure the text transformer: BERT with cross-attention, as encoder or decoder (BLIP section 3.1).

    The defaults are those of transformers 4.57.6; `base` and `large` are the original's.

    Args:
        vocab_size: Tokens of the vocabulary, `[DEC]` and `[ENC]` included.
        hidden_size: Width of the hidden states, a multiple of `num_attention_heads`.
        encoder_hidden_size: Width of the states that cross-attention reads.
        intermediate_size: Width of the feed-forward layers.
        projection_dim: Kept for Hugging Face files; BLIP does not read it.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Attention heads of each layer.
        max_position_embeddings: Longest text in tokens.
        hidden_act: Activation of the feed-forward layers, one of `ACTIVATIONS`.
        layer_norm_eps: Added to the variance in each LayerNorm.
        hidden_dropout_prob: Dropout of embeddings and layer outputs in training, in [0, 1).
        attention_probs_dropout_prob: Dropout of attention probabilities in training, in [0, 1).
        initializer_range: Standard deviation of random initial weights.
        bos_token_id: First token of a generated text, `[DEC]`.
        eos_token_id: Kept for Hugging Face files; `sep_token_id` ends a generated text.
        pad_token_id: Padding.
        sep_token_id: Last token of a text, `[SEP]`.
        is_decoder: False leaves cross-attention out.
        use_cache: Kept for Hugging Face files; generation always uses its cache.
        label_smoothing: Smoothing of the language-modelling loss, in [0, 1).

    Raises:
        ValueError: A value cannot work; the message names the field.
    """

    model_type: ClassVar[str] = "blip_text_model"
    part: ClassVar[str | None] = "text_config"
    vocab_size: int = setting(30524, SIZE)
    hidden_size: int = setting(768, SIZE)
    encoder_hidden_size: int = setting(768, SIZE)
    intermediate_size: int = setting(3072, SIZE)
    projection_dim: int = setting(768, SIZE)
    num_hidden_layers: int = setting(12, SIZE)
    num_attention_heads: int = setting(8, SIZE)
    max_position_embeddings: int = setting(512, SIZE)
    hidden_act: str = setting("gelu", ACTIVATION)
    layer_norm_eps: float = setting(1e-12, SCALE)
    hidden_dropout_prob: float = setting(0.0, RATE)
    attention_probs_dropout_prob: float = setting(0.0, RATE)
    initializer_range: float = setting(0.02, SCALE)
    bos_token_id: int = setting(30522, TOKEN)
    eos_token_id: int = 2
    pad_token_id: int = setting(0, TOKEN)
    sep_token_id: int = setting(102, TOKEN)
    is_decoder: bool = setting(True, flag)
    use_cache: bool = True
    label_smoothing: float = setting(0.0, RATE)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads(self)

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
    """Configure the vision transformer (BLIP section 3.1).

    The defaults are those of transformers 4.57.6; `base` and `large` are the original's, with another
    `layer_norm_eps`.

    Args:
        hidden_size: Width of the hidden states, a multiple of `num_attention_heads`.
        intermediate_size: Width of the feed-forward layers.
        projection_dim: Kept for Hugging Face files; BLIP does not read it.
        num_hidden_layers: Transformer blocks.
        num_attention_heads: Attention heads of each block.
        num_channels: Channels of a picture.
        image_size: Height and width of a picture in pixels, a multiple of `patch_size`.
        patch_size: Height and width of a patch in pixels.
        hidden_act: Activation of the feed-forward layers, one of `ACTIVATIONS`.
        layer_norm_eps: Added to the variance in each LayerNorm.
        attention_dropout: Dropout of attention probabilities in training, in [0, 1).
        drop_path_rate: Stochastic depth in training, in [0, 1): the share of pictures for which the last block is
            skipped. It grows linearly from 0 in the first block.
        initializer_range: Standard deviation of random initial weights.

    Raises:
        ValueError: A value cannot work; the message names the field.
    """

    model_type: ClassVar[str] = "blip_vision_model"
    part: ClassVar[str | None] = "vision_config"
    hidden_size: int = setting(768, SIZE)
    intermediate_size: int = setting(3072, SIZE)
    projection_dim: int = setting(512, SIZE)
    num_hidden_layers: int = setting(12, SIZE)
    num_attention_heads: int = setting(12, SIZE)
    num_channels: int = setting(3, SIZE)
    image_size: int = setting(384, SIZE)
    patch_size: int = setting(16, SIZE)
    hidden_act: str = setting("gelu", ACTIVATION)
    layer_norm_eps: float = setting(1e-5, SCALE)
    attention_dropout: float = setting(0.0, RATE)
    drop_path_rate: float = setting(0.0, RATE)
    initializer_range: float = setting(1e-10, SCALE)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads(self)
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
    """Configure a whole BLIP model: its text and vision transformers and what joins them.

    Args:
        text_config: A `BlipTextConfig`, a dictionary of its fields, or None for the defaults. It is copied, and its
            `encoder_hidden_size` becomes the width of the vision model.
        vision_config: A `BlipVisionConfig`, a dictionary of its fields, or None for the defaults. It is copied.
        projection_dim: Width of the features of `BlipModel`.
        logit_scale_init_value: Initial logarithm of the scale of `BlipModel`'s similarities.
        image_text_hidden_size: Width of the retrieval features.
        label_smoothing: Kept for Hugging Face files; the loss reads `text_config.label_smoothing`.
        initializer_factor: Kept for Hugging Face files.
        initializer_range: Standard deviation of random initial weights.
        enc_token_id: Replaces the first token of image-grounded text, as the original does with `[ENC]` (30523). None
            leaves it as given, as Hugging Face checkpoints expect.
        queue_size: Pictures and texts whose features contrastive training keeps.
        momentum: Share of themselves that the momentum encoders keep in each training step, in [0, 1).
        negative_all_rank: Take hard negatives from the batches of all processes; False: from the own process's batch.

    Raises:
        ValueError: A value cannot work; the message names the field.

    Example:
        >>> config = BlipConfig.base(image_size=224)
        >>> config.vision_config.num_positions
        197
    """

    model_type: ClassVar[str] = "blip"
    text_config: BlipTextConfig = None  # type: ignore[assignment]  # None and dictionaries become configurations below
    vision_config: BlipVisionConfig = None  # type: ignore[assignment]
    projection_dim: int = setting(512, SIZE)
    logit_scale_init_value: float = setting(2.6592, number)
    image_text_hidden_size: int = setting(256, SIZE)
    label_smoothing: float = setting(0.0, RATE)
    initializer_factor: float = setting(1.0, number)
    initializer_range: float = setting(0.02, SCALE)
    enc_token_id: int | None = setting(None, TOKEN, optional=True)
    queue_size: int = setting(57600, SIZE)
    momentum: float = setting(0.995, RATE)
    negative_all_rank: bool = setting(True, flag)

    def __post_init__(self) -> None:
        self.text_config = _part(BlipTextConfig, self.text_config)
        self.vision_config = _part(BlipVisionConfig, self.vision_config)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        super().__post_init__()

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
