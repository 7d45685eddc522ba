"""What the tests of conversion share: the original's little checkpoints, and random ones of every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blip_core import BlipConfig
from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.saving import write_pretrained
from blip_core.parameters.models import parameters
from conversion.verification import same
from tests.helpers.random_models import CONFIGS_OF, head_config

ORIGINAL = Path(__file__).parents[1] / "data" / "reference" / "original"
TRANSFORMERS = Path(__file__).parents[1] / "data" / "reference" / "transformers"
HEADS_OF = {
    "caption": "BlipForConditionalGeneration", "itm": "BlipForImageTextRetrieval", "vqa": "BlipForQuestionAnswering",
    "nlvr": "BlipForNLVR", "retrieval": "BlipForImageTextRetrieval", "pretrain": "BlipForPreTraining",
}  # fmt: skip
ATTENTION_HEADS = {"text_config": {"num_attention_heads": 2}, "vision_config": {"num_attention_heads": 3}}
"""What the original's little checkpoints do not tell."""

FORMATS = ("safetensors", "pytorch_model.bin", "pth", "tf_model.h5", "weights.h5")


def random_checkpoint(
    folder: Path, head: str, config: BlipConfig | None = None, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Write a folder with a random model of a head; returns its tensors by Hugging Face name."""
    own: Any = head_config(head, config or CONFIGS_OF["wide"])
    noise = np.random.default_rng(len(head))
    rows = parameters(head, own)
    values = {row.name: noise.normal(0, scale, row.shape).astype(np.float32) for row in rows}
    write_pretrained(folder, head, own, rows, lambda row: values[row.name])
    return values


def differences(one: Path, other: Path) -> list[str]:
    """Names of tensors that are not the same, bit by bit, in two checkpoints."""
    a, b = open_checkpoint(one), open_checkpoint(other)
    return sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or not same(a[name], b[name]))
