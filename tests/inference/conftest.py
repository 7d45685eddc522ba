"""Tiny random models of every head, and pictures, for the classes that use models."""

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.parameters.models import parameters

HEADS = {
    "caption": "BlipForConditionalGeneration",
    "answer": "BlipForQuestionAnswering",
    "match": "BlipForImageTextRetrieval",
    "pretrain": "BlipForPreTraining",
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder for each head, with a model of two text layers and its processor."""
    root = tmp_path_factory.mktemp("checkpoints")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = BlipTextConfig(**sizes, num_hidden_layers=2)
    vision = BlipVisionConfig.base(**sizes, num_hidden_layers=1, image_size=32)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=8)
    noise = np.random.default_rng(0)
    for name, head in HEADS.items():
        rows = parameters(head, config)
        values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
        write_pretrained(root / name, head, config, rows, lambda row, values=values: values[row.name])
        BlipProcessor(BlipImageProcessor(size=32), BlipTokenizer()).save_pretrained(root / name)
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three pictures, and one between them that is none: their paths."""
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(1)
    for name in ("one", "two", "three"):
        Image.fromarray(noise.integers(0, 256, (40, 30, 3), np.uint8)).save(root / f"{name}.png")
    (root / "bad.png").write_bytes(b"this is no picture")
    return [str(root / f"{name}.png") for name in ("one", "bad", "two", "three")]
