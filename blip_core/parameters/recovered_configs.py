"""The configuration of a checkpoint that comes without one, read off the shapes of its tensors."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from blip_core.config import BlipTextConfig, BlipVisionConfig

ORIGINAL = ("visual_encoder.", "patch_embed.proj.weight", "pos_embed", "blocks.")
PUBLISHED = (
    "vision_model.", "embeddings.patch_embedding.weight", "embeddings.position_embedding", "encoder.layers.",
)  # fmt: skip
"""Names of the vision encoder: its prefix, the patch embedding, the position embedding, and the prefix of layers."""
TEXT = ("text_decoder.bert.", "text_encoder.", "text_model.")


def recover_config(path: Path, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes of a checkpoint without a configuration off its tensors, whose names and shapes these are.

    Head counts leave no trace in the tensors: the original's are width/64 for vision and 12 for text. An original
    checkpoint has vision LayerNorm eps 1e-6; one with published names may have any, of which a warning says which is
    assumed. Raises `FileNotFoundError` if the tensors do not tell enough, `ValueError` if head counts must be given.
    """
    original = f"{ORIGINAL[0]}{ORIGINAL[1]}" in shapes
    try:
        vision_config = _vision_sizes(shapes, *(ORIGINAL if original else PUBLISHED))
        text_config = _text_sizes(shapes)
    except (KeyError, ValueError, IndexError, StopIteration):
        raise FileNotFoundError(
            f"{path.parent / 'config.json'} is missing, and the tensors of {path.name} do not tell the sizes of a "
            "whole BLIP; put config.json beside it, or give it by config= or --config FILE."
        ) from None
    vision_config["layer_norm_eps"] = 1e-6 if original else 1e-5
    if not original and vision_config["hidden_size"] % 64:  # no model of the original's sizes: as many as its base has
        vision_config["num_attention_heads"] = 12
    width, text_width, vocab = vision_config["hidden_size"], text_config["hidden_size"], text_config["vocab_size"]
    for name, part, size in (("text_config", text_config, text_width), ("vision_config", vision_config, width)):
        heads = (given.get(name) or {}).get("num_attention_heads", part["num_attention_heads"])
        if not heads or size % heads:
            error = ValueError if original else FileNotFoundError
            raise error(
                f"{path}: without a config.json, the number of attention heads cannot be read off the tensors, and "
                f"the original's does not divide {size}; give them by config= or --config FILE as "
                f'{{"{name}": {{"num_attention_heads": ...}}}}.'
            )
    if not original:
        warnings.warn(
            f"{path} has no config.json: sizes are read off its tensors, and assumed are "
            f"{vision_config['num_attention_heads']} heads and "
            f"LayerNorm eps {vision_config['layer_norm_eps']} of the vision encoder, 12 heads of the text model, gelu, "
            "and no enc_token_id, unless config= or --config FILE says otherwise.",
            stacklevel=4,
        )
    text = BlipTextConfig.base() if original else BlipTextConfig()  # published models were saved without dropout
    base: dict[str, Any] = {"text_config": text.to_dict() | text_config}
    base["enc_token_id"] = vocab - 1 if original else None
    base["vision_config"] = BlipVisionConfig.base().to_dict() | vision_config
    if "vision_proj.weight" in shapes:
        base["image_text_hidden_size"] = shapes["vision_proj.weight"][0]
    if "image_queue" in shapes:
        base["queue_size"] = shapes["image_queue"][-1]
    return base


def _vision_sizes(
    shapes: Mapping[str, tuple[int, ...]], prefix: str, patches: str, positions: str, layers: str
) -> dict[str, Any]:
    width, channels, patch, _ = shapes[prefix + patches]
    texts = {f"{place}embeddings.word_embeddings.weight" for place in ("text_encoder.", "text_decoder.bert.")}
    answers = texts <= shapes.keys() and "vision_proj.weight" not in shapes  # which pre-training has
    return {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": math.isqrt(shapes[prefix + positions][1] - 1) * patch,
        "intermediate_size": shapes[f"{prefix}{layers}0.mlp.fc1.weight"][0],
        "num_hidden_layers": _layers(shapes, prefix + layers),
        "num_attention_heads": width // 64,
        "drop_path_rate": 0.1 if width > 768 or "cls_head.0.weight" in shapes or answers else 0.0,  # ViT-L, NLVR, VQA
    }


def _text_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    prefix = next(prefix for prefix in TEXT if f"{prefix}embeddings.word_embeddings.weight" in shapes)
    vocab, width = shapes[f"{prefix}embeddings.word_embeddings.weight"]
    return {
        "hidden_size": width,
        "vocab_size": vocab,
        "intermediate_size": shapes[f"{prefix}encoder.layer.0.intermediate.dense.weight"][0],
        "num_hidden_layers": _layers(shapes, f"{prefix}encoder.layer."),
        "num_attention_heads": 12,
        "max_position_embeddings": shapes[f"{prefix}embeddings.position_embeddings.weight"][0],
        "bos_token_id": vocab - 2,  # [DEC] and [ENC] were appended to the vocabulary in this order
    }


def from_med_config(values: dict[str, Any]) -> dict[str, Any]:
    """Read the original's `med_config.json`, which describes the text model alone, as settings; others pass through."""
    if values.get("model_type") != "bert":
        return values
    known = {f.name for f in fields(BlipTextConfig)}
    return {"text_config": {name: value for name, value in values.items() if name in known}}


def _layers(shapes: Mapping[str, Any], prefix: str) -> int:
    return 1 + max(int(m[1]) for name in shapes if (m := re.match(re.escape(prefix) + r"(\d+)\.", name)))
