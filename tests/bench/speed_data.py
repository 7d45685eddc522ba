"""What the benchmark of speed works on: base-size checkpoints with random weights, photographs, questions and texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
LAYERS = int(os.environ.get("BENCH_LAYERS", "12"))
"""Fewer than 12 are no base size: they show in a short time that a benchmark works."""
CACHE = Path(os.environ.get("BENCH_CACHE", ROOT / (".bench" if LAYERS == 12 else f".bench-{LAYERS}")))
HEADS = {
    "captioner": "BlipForConditionalGeneration",
    "answerer": "BlipForQuestionAnswering",
    "matcher": "BlipForImageTextRetrieval",
}
PHOTOS = [ROOT / "tests/data/photos" / name for name in ("astronaut.jpg", "cat.png", "coffee_turned.jpg")]
QUESTION = "how many cups are on the table?"
SENTENCE = "a red cup on the table beside an old camera and two cats that look at the sky in the morning"


def prepare() -> None:
    """Write checkpoints and inputs into the cache folder, unless they are there."""
    from conversion import convert

    for name in HEADS:
        if not (CACHE / name / "done").exists():
            write_checkpoint(name)
        if not (CACHE / f"{name}-int8").exists():
            convert(CACHE / name, CACHE / f"{name}-int8", to="int8")
    write_inputs(CACHE / "inputs.npz")


def write_checkpoint(name: str) -> None:
    """The same weights twice: as safetensors, and in `NAME-bin` as the `.bin` that transformers' TensorFlow reads.

    Weights are larger than those that training begins with, so that the likeliest tokens stand out from rounding.
    """
    import torch

    from blip_core import BlipConfig, BlipImageProcessor
    from blip_core.checkpoints.saving import write_pretrained
    from blip_core.parameters.models import parameters
    from conversion import convert

    noise = np.random.default_rng(0)
    config = BlipConfig.base(enc_token_id=None)  # transformers has no such token
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = LAYERS
    folder, head = CACHE / name, HEADS[name]

    def draw(row: Any) -> np.ndarray:
        if row.row.init == "ones":
            return np.ones(row.shape, np.float32)
        return noise.standard_normal(row.shape, np.float32) * np.float32(0.03)

    write_pretrained(folder, head, config, parameters(head, config), draw)
    BlipImageProcessor().save_pretrained(folder)
    convert(folder, CACHE / f"{name}-bin", to="pytorch_model.bin", overwrite=True)
    assert torch.load(CACHE / f"{name}-bin/pytorch_model.bin", mmap=True, weights_only=True)
    for path in (folder, CACHE / f"{name}-bin"):
        values = json.loads((path / "config.json").read_text())
        values["vision_config"]["num_channels"] = 3  # which transformers' TensorFlow asks for
        (path / "config.json").write_text(json.dumps(values))
    (folder / "done").touch()


def write_inputs(path: Path) -> None:
    """Eight photographs as the processor prepares them, one question, and 64 texts of 4 to 15 words."""
    from blip_core import BlipProcessor

    processor, noise, words = BlipProcessor(), np.random.default_rng(1), SENTENCE.split()
    texts = [" ".join(noise.choice(words, noise.integers(4, 16))) for _ in range(64)]
    pixels = processor(images=[str(photo) for photo in PHOTOS], return_tensors="np").pixel_values
    question, texts = (processor(text=t, return_tensors="np") for t in ([QUESTION], texts))
    np.savez(
        path, pixel_values=np.concatenate([pixels, pixels[:, :, ::-1], pixels[:2, :, :, ::-1]]),
        question_ids=question.input_ids, question_mask=question.attention_mask,
        text_ids=texts.input_ids, text_mask=texts.attention_mask,
    )  # fmt: skip
