"""A tiny world to train in: eight pictures, what to say and to ask of them, and a model without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_core import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.checkpoints import open_checkpoint
from tests.helpers.frameworks import INSTALLED, require

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "picture", "of", "what", "colour", "is"]
WORDS += ["it", "large", "small", "square", "both", "are", *COLOURS]
DATA = {"caption": "pairs", "pretrain": "pairs", "retrieval": "pairs", "vqa": "questions", "nlvr": "sentences"}
DATA |= {"match": "labelled", "classification": "classes"}
QUICK: dict[str, Any] = {
    "batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "warmup_steps": 0, "augmentation": False, "workers": 0,
    "log_every": 1, "dropout": 0.0, "drop_path": 0.0, "image_size": "model", "queue_size": "model",
}  # fmt: skip
"""Settings of runs that take a second."""


def make_world(folder: Path) -> Path:
    """Write the pictures, the files of data and, in `new`, a configuration and a vocabulary."""
    pairs, questions, sentences, labelled = [], [], [], []
    for number in range(8):
        colour, size = list(COLOURS)[number % 4], "large" if number < 4 else "small"
        side = 24 if size == "large" else 12
        picture = Image.new("RGB", (32, 32))
        picture.paste(COLOURS[colour], (4, 4, 4 + side, 4 + side))
        picture.save(folder / f"{number}.png")
        pairs.append({"image": f"{number}.png", "caption": f"a {size} {colour} square", "image_id": number})
        labelled.append({"image": f"{number}.png", "caption": f"a {size} square", "label": number % 2})
        answers = [colour, colour, size]
        questions.append({"image": f"{number}.png", "question": "what colour is it?", "answer": answers})
        images = [f"{number}.png", f"{(number * 5) % 8}.png"]
        sentences.append({"images": images, "sentence": f"both are {colour}", "label": str(number % 2 == 0)})
    classes = [{**entry, "sentence": entry["caption"]} for entry in labelled]
    files = {"pairs": pairs, "questions": questions, "sentences": sentences, "labelled": labelled, "classes": classes}
    for name, entries in files.items():
        (folder / f"{name}.json").write_text(json.dumps(entries))
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(vocab_size=len(WORDS), max_position_embeddings=24, bos_token_id=5, sep_token_id=3, **sizes)
    vision = BlipVisionConfig.base(image_size=32, patch_size=8, **sizes)
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=8, enc_token_id=6, queue_size=8)
    config.save_pretrained(folder / "new")
    (folder / "new" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def of(world: Path, task: str, output: str, **more: Any) -> dict[str, Any]:
    """The arguments of a quick run from random weights."""
    require(more.get("engine") or INSTALLED[0])
    data = world / f"{DATA[task]}.json"
    given = {
        "task": task,
        "recipe": task,
        "data": data,
        "model": world / "new" / "config.json",
        "output": world / output,
    }
    return {**given, **QUICK, **more}


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a folder's model."""
    checkpoint = open_checkpoint(folder)
    return {name: np.array(checkpoint[name]) for name in checkpoint}


def losses(folder: Path, name: str = "loss") -> list[float]:
    """The losses of a run's log, a number for each step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def validations(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run's log, but for losses, of each epoch."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = [line["validation"] for line in lines if "validation" in line]
    return [{name: value for name, value in one.items() if not name.startswith("loss")} for one in found]


def close(expected: Path, found: Path, atol: float) -> bool:
    """Whether the weights of two folders agree, but for the biases of keys, whose gradient is rounding alone."""
    one, other = weights(expected), weights(found)
    assert one.keys() == other.keys()
    far = []
    for name, value in one.items():
        difference = np.abs(value - other[name])
        if name.endswith("qkv.bias"):
            difference = np.delete(difference.reshape(3, -1), 1, axis=0)
        if not name.endswith("key.bias") and difference.max() > atol:
            far.append((name, float(difference.max())))
    assert not far, far
    return True
