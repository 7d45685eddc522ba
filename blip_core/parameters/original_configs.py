"""Original Salesforce checkpoints: their configuration, read off the tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from blip_core.config import BlipTextConfig, BlipVisionConfig

VISION = "visual_encoder."


def recover_config(path: Path, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes of an original checkpoint, which comes without a configuration, off its tensors.

    `path` and `shapes` are those of the checkpoint. Head counts leave no trace in the tensors: the original's are
    width/64 for vision and 12 for text.
    """
    text = next(
        (p for p in ("text_decoder.bert.", "text_encoder.") if f"{p}embeddings.word_embeddings.weight" in shapes), None
    )
    if f"{VISION}patch_embed.proj.weight" not in shapes or text is None:
        raise FileNotFoundError(
            f"{path.parent / 'config.json'} is missing, and {path.name} is not an original BLIP "
            "checkpoint, which could do without; put config.json beside it or pass config=."
        )
    width, channels, patch, _ = shapes[f"{VISION}patch_embed.proj.weight"]
    tokens = shapes[f"{VISION}pos_embed"][1]
    answers = text == "text_decoder.bert." and "text_encoder.embeddings.word_embeddings.weight" in shapes
    answers = answers and "vision_proj.weight" not in shapes  # which pre-training has
    vocab, text_width = shapes[f"{text}embeddings.word_embeddings.weight"]
    vision_config = {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": math.isqrt(tokens - 1) * patch,
        "intermediate_size": shapes[f"{VISION}blocks.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _layers(shapes, f"{VISION}blocks."),
        "num_attention_heads": width // 64,
        "layer_norm_eps": 1e-6,
        "drop_path_rate": 0.1 if width > 768 or "cls_head.0.weight" in shapes or answers else 0.0,  # ViT-L, NLVR, VQA
    }
    text_config = {
        "hidden_size": text_width,
        "vocab_size": vocab,
        "intermediate_size": shapes[f"{text}encoder.layer.0.intermediate.dense.weight"][0],
        "num_hidden_layers": _layers(shapes, f"{text}encoder.layer."),
        "num_attention_heads": 12,
        "max_position_embeddings": shapes[f"{text}embeddings.position_embeddings.weight"][0],
        "bos_token_id": vocab - 2,  # [DEC] and [ENC] were appended to the vocabulary in this order
    }
    for name, part, size in (("text_config", text_config, text_width), ("vision_config", vision_config, width)):
        heads = (given.get(name) or {}).get("num_attention_heads", part["num_attention_heads"])
        if not heads or size % heads:
            raise ValueError(
                f"{path}: the number of attention heads cannot be read off the tensors and the original's "
                f"does not divide {size}; pass config={{'{name}': {{'num_attention_heads': ...}}}}."
            )
    base: dict[str, Any] = {"text_config": BlipTextConfig.base().to_dict() | text_config, "enc_token_id": vocab - 1}
    base["vision_config"] = BlipVisionConfig.base().to_dict() | vision_config
    if "vision_proj.weight" in shapes:
        base["image_text_hidden_size"] = shapes["vision_proj.weight"][0]
    if "image_queue" in shapes:
        base["queue_size"] = shapes["image_queue"][-1]
    return base


def from_med_config(values: dict[str, Any]) -> dict[str, Any]:
    """Read the original's `med_config.json`, which describes the text model alone, as settings; others pass through."""
    if values.get("model_type") != "bert":
        return values
    known = {f.name for f in fields(BlipTextConfig)}
    return {"text_config": {name: value for name, value in values.items() if name in known}}


def _layers(shapes: Mapping[str, Any], prefix: str) -> int:
    return 1 + max(int(m[1]) for name in shapes if (m := re.match(re.escape(prefix) + r"(\d+)\.", name)))
