"""What the tests share: odd little models, and inputs for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from blip_core import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.parameters import heads

TEXT = {
    "vocab_size": 90, "bos_token_id": 88, "sep_token_id": 5, "max_position_embeddings": 40, "initializer_range": 0.2,
}  # fmt: skip
VISION = {"initializer_range": 0.2}
CONFIGS_OF = {
    # wide text, few heads
    "wide": BlipConfig(
        text_config=BlipTextConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, label_smoothing=0.1,
            **TEXT,
        ),
        vision_config=BlipVisionConfig(
            hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=32,
            patch_size=8, **VISION,
        ),
        image_text_hidden_size=16, projection_dim=12, initializer_range=0.2, enc_token_id=89, queue_size=6,
    ),
    # wide vision, many heads, other activations, the original's eps
    "deep": BlipConfig(
        text_config=BlipTextConfig(
            hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=5, hidden_act="gelu_new",
            **TEXT,
        ),
        vision_config=BlipVisionConfig(
            hidden_size=48, intermediate_size=56, num_hidden_layers=1, num_attention_heads=2, image_size=48,
            patch_size=16, num_channels=1, hidden_act="quick_gelu", layer_norm_eps=1e-6, **VISION,
        ),
        image_text_hidden_size=10, projection_dim=7, initializer_range=0.2, queue_size=5,
    ),
}  # fmt: skip
HEADS = tuple(heads.HEADS)


def head_config(head: str, config: BlipConfig) -> Any:
    """The part of a configuration that a model class takes."""
    parts = {BlipVisionConfig: config.vision_config, BlipTextConfig: config.text_config}
    return parts.get(heads.HEADS[head].config, config)


def inputs(head: str, config: BlipConfig) -> dict[str, np.ndarray]:
    """Arguments for a call: two pictures, two texts of unlike length, labels."""
    noise = np.random.default_rng(3)
    vision = config.vision_config
    pixels = noise.normal(size=(2, vision.num_channels, vision.image_size, vision.image_size)).astype(np.float32)
    ids = noise.integers(6, 80, (2, 7))
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
    text = {"input_ids": np.where(mask, ids, 0), "attention_mask": mask}
    labels = {"labels": np.where(mask, ids, -100)}
    states = {"encoder_hidden_states": noise.normal(size=(2, 5, vision.hidden_size)).astype(np.float32)}
    states["encoder_attention_mask"] = np.array([[1] * 5, [1, 1, 0, 0, 1]])
    return {
        "BlipVisionModel": {"pixel_values": pixels},
        "BlipTextModel": text | states,
        "BlipTextLMHeadModel": text | states | labels,
        "BlipModel": {"pixel_values": pixels, **text},
        "BlipForConditionalGeneration": {"pixel_values": pixels, **text, **labels},
        "BlipForQuestionAnswering": {"pixel_values": pixels, **text, **labels},
        "BlipForImageTextRetrieval": {"pixel_values": pixels, **text},
        "BlipForNLVR": {"pixel_values": np.stack([pixels, pixels[::-1]], axis=1), **text, "labels": np.array([1, 0])},
        "BlipForClassification": {"pixel_values": pixels, **text, "labels": np.array([1, 0])},
        "BlipForPreTraining": {"pixel_values": pixels, **text, "noise": noise.random((2, 2), np.float32)},
    }[head]


def numpy(tensor: Any) -> np.ndarray:
    """An array of a tensor of either framework, or of an array."""
    if hasattr(tensor, "detach"):
        return tensor.detach().double().numpy() if tensor.is_floating_point() else tensor.numpy()
    array = np.asarray(tensor)
    return array if array.dtype.kind in "iub" else array.astype(np.float64)


def difference(expected: Any, found: Any) -> float:
    """The greatest absolute difference over the greatest absolute value."""
    expected, found = numpy(expected), numpy(found)
    assert expected.shape == found.shape
    assert np.isfinite(found).all()
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def randomized(model: Any) -> Any:
    """A PyTorch model with biases and scales that are not trivial, so that none is left out unnoticed; evaluating."""
    import torch

    noise = np.random.default_rng(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.from_numpy(noise.normal(scale=0.1, size=tuple(parameter.shape)).astype(np.float32)))
    return model.eval()
