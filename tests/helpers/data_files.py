"""Data sets for tests: little pictures, files of every format, and what a processor makes of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_core import BlipImageProcessor, BlipProcessor
from blip_core.datasets import Batches, Dataset, open_dataset

PROCESSOR = BlipProcessor(BlipImageProcessor(size=(16, 20)))  # height, width
FIELDS: dict[str, dict[str, Any]] = {
    "caption": {"caption": "A Dog!"},
    "pretrain": {"caption": "a dog"},
    "retrieval": {"caption": "a dog"},
    "vqa": {"question": "What is it?", "question_id": 3, "answer": ["dog", "cat", "dog", "dog"], "dataset": "vqa"},
    "grounding": {"text": "a dog", "box": [1, 2, 3.5, 4]},
    "match": {"caption": "a dog", "label": "no match"},
    "classification": {"sentence": "a dog", "label": "entailment"},
    "nlvr": {"sentence": "the left one is a dog", "label": "True"},
}


def picture(number: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture of noise, 24 x 18, another for each number."""
    values = np.random.default_rng(number).integers(0, 256, (18, 24, len(mode)), np.uint8)
    return Image.fromarray(values, mode)


def picture_bytes(number: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, kind)
    return buffer.getvalue()


def save_pictures(folder: Path, count: int) -> list[str]:
    """Save pictures 0.png, 1.png and so on; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def write_entries(path: Path, entries: list[Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def small_dataset(folder: Path, task: str = "caption", count: int = 10, **fields: Any) -> Dataset:
    """A data set of so many pictures, each with the fields of its task."""
    names = save_pictures(folder, count)
    images = [{"images": [name, names[0]]} if task == "nlvr" else {"image": name} for name in names]
    return open_dataset(write_entries(folder / "data.json", [{**i, **FIELDS[task], **fields} for i in images]), task)


def make_batches(dataset: Dataset, batch_size: int = 4, *, training: bool = True, **options: Any) -> Batches:
    options.setdefault("workers", 0)
    return Batches(dataset, PROCESSOR, dataset.task, batch_size, training=training, **options)


def write_tar(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
