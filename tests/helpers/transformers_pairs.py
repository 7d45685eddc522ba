"""Pairs of models with the same weights, ours and transformers', and their comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

import blip_pt

CONFIGS = {
    "odd": {
        "text_config": {
            "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": 30, "bos_token_id": 95, "sep_token_id": 3,
        },
        "vision_config": {
            "hidden_size": 36, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 3,
            "image_size": 24, "patch_size": 8, "num_channels": 3,
        },
        "projection_dim": 10, "image_text_hidden_size": 14,
    },
    "square": {
        "text_config": {
            "vocab_size": 61, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2,
            "num_attention_heads": 8, "max_position_embeddings": 26, "bos_token_id": 59, "sep_token_id": 7,
            "hidden_act": "gelu_new", "label_smoothing": 0.1,
        },
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 20, "patch_size": 5, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-6, "num_channels": 3,
        },
        "projection_dim": 12, "image_text_hidden_size": 6,
    },
    "deep": {
        "text_config": {
            "vocab_size": 83, "hidden_size": 20, "intermediate_size": 72, "num_hidden_layers": 4,
            "num_attention_heads": 5, "max_position_embeddings": 34, "bos_token_id": 81, "sep_token_id": 11,
            "hidden_act": "relu", "layer_norm_eps": 1e-5,
        },
        "vision_config": {
            "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
            "image_size": 36, "patch_size": 12, "hidden_act": "silu", "num_channels": 3,
        },
        "projection_dim": 9, "image_text_hidden_size": 11,
    },
}  # fmt: skip
PROGRAM_HEADS = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "itm": "BlipForImageTextRetrieval",
    "plain": "BlipModel",
}
# Folders of Trainer hold weights alone, of which as many heads are assumed as base models have.
PROGRAM_CONFIG = {
    "text_config": {
        "vocab_size": 30524, "hidden_size": 24, "encoder_hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 12, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "vision_config": {
        "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 12, "image_size": 32,
        "patch_size": 8, "num_channels": 3,
    },
    "projection_dim": 10, "image_text_hidden_size": 12,
}  # fmt: skip
OUTPUTS = {"output_hidden_states": True, "output_attentions": True}


def randomize(model: torch.nn.Module) -> None:
    """Weights large enough that every term of every layer shows in the outputs; biases and LayerNorms not trivial."""
    noise = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = (
                0.4 if "embeddings" in name else 1.0 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.2
            )
            parameter.normal_(std=scale, generator=noise)
            if name.endswith(("norm.weight", "Norm.weight", "norm1.weight", "norm2.weight")):
                parameter.add_(1.0)


def make_pair(name: str, config: dict, folder) -> tuple[torch.nn.Module, torch.nn.Module]:
    theirs = getattr(transformers, name)(transformers.BlipConfig(**config)).eval()
    randomize(theirs)
    theirs.save_pretrained(folder)
    return getattr(blip_pt, name).from_pretrained(folder), theirs


def inputs(
    config: dict, batch: int = 3, length: int = 7, padded: bool = True, seed: int = 0
) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    text, vision = config["text_config"], config["vision_config"]
    size = vision["image_size"]
    ids = torch.randint(12, text["vocab_size"] - 3, (batch, length), generator=noise)
    ids[:, 0] = text["bos_token_id"]
    ids[:, -1] = text["sep_token_id"]
    mask = torch.ones(batch, length, dtype=torch.long)
    if padded:
        for row in range(1, batch):
            ids[row, -row:], mask[row, -row:] = 0, 0
            ids[row, -row - 1] = text["sep_token_id"]
    pixels = torch.randn(batch, 3, size, size, generator=noise)
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_close(ours, theirs, where: str = "") -> None:
    """Everything that transformers returned, however nested, is in ours within 1e-5."""
    if torch.is_tensor(theirs):
        assert ours.shape == theirs.shape, where
        assert relative(ours, theirs) < 1e-5, f"{where}: {relative(ours, theirs)}"
    elif isinstance(theirs, tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(a, b, f"{where}[{i}]")
    else:
        for key in theirs:
            assert_close(ours[key], theirs[key], f"{where}.{key}")


def assert_gradients(ours: torch.nn.Module, theirs: torch.nn.Module, tolerance: float = 1e-5) -> None:
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for row in ours.table():
        ours_grad, grad = ours.get_parameter(row.name).grad, expected[row.name]
        if grad is None:
            assert ours_grad is None or not ours_grad.any(), row.name
            continue
        difference = float((ours_grad - grad).abs().max())
        # The bias of keys moves all scores alike: its gradient is zero but for rounding, of no scale of its own.
        scale = largest if row.name.endswith("key.bias") else float(grad.abs().max())
        assert difference < tolerance * max(scale, 1e-3 * largest), (row.name, difference, scale)


def check_same(found: Any, expected: Any, where: str) -> None:
    """Tensors and numbers within 1e-4 of the largest, texts and whole numbers alike."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            check_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), (where, found, expected)
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_same(one, other, f"{where}[{index}]")
    elif hasattr(expected, "shape") or isinstance(expected, float):
        one, other = (
            torch.as_tensor(value if torch.is_tensor(value) else np.asarray(value)) for value in (found, expected)
        )
        one, other = one.detach().double(), other.detach().double()
        assert one.shape == other.shape, (where, one, other)
        largest = float(other.abs().max()) if other.numel() else 0.0
        assert float((one - other).abs().max()) <= 1e-4 * largest, (where, found, expected)
    else:
        assert found == expected, where
