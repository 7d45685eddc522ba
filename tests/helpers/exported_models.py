"""Random models converted to exports, once for all tests that look at them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from blip_core import BlipImageProcessor
from blip_core.parameters.graph_parts import INTEGERS, GraphPart
from conversion import convert
from tests.helpers.pytorch_models import make

ROOT = Path(tempfile.mkdtemp(prefix="blip-exports-"))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
SIZES = (
    {"pictures": 2, "image_tokens": 17, "texts": 4, "length": 3, "rows": 4, "new": 3, "capacity": 9, "states": 5},
    {"pictures": 1, "image_tokens": 7, "texts": 5, "length": 6, "rows": 3, "new": 1, "capacity": 8, "states": 3},
    {"pictures": 3, "image_tokens": 4, "texts": 3, "length": 1, "rows": 6, "new": 2, "capacity": 5, "states": 9},
)
"""Sizes of the free axes."""


@cache
def source(head: str, name: str) -> Path:
    """A folder with a random model, and its processor's settings."""
    folder = ROOT / f"{head}-{name}"
    model = make(head, name)
    if hasattr(model, "text_decoder"):
        model.text_decoder.cls.predictions.bias.data[5] += 1.5  # so that texts end, at unlike lengths
    model.save_pretrained(folder)
    vision = getattr(model.config, "vision_config", model.config)
    if hasattr(vision, "image_size"):
        BlipImageProcessor(size=vision.image_size).save_pretrained(folder)
    return folder


@cache
def exported(to: str, head: str, name: str, **options: Any) -> Path:
    """A folder with the export of that model."""
    folder = ROOT / "-".join([to, head, name, *map(str, options.values())])
    convert(source(head, name), folder, to=to, **options)
    return folder


def part_inputs(part: GraphPart, sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """Inputs of a part: the last text is padded on the right, the first one on the left where it is long."""
    noise = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name, axes in part.inputs.items():
        shape = [sizes[axis] for axis in axes.split()]
        found[name] = noise.normal(size=shape).astype(np.float32)
        if name in INTEGERS:
            found[name] = noise.integers(6, 80, shape).astype(np.int32)
    before = sizes["capacity"] - sizes["new"] - 1
    found |= {name: np.array(sizes[name], np.int32) for name in ("rows", "capacity") if name in found}
    found |= {"length": np.array(before, np.int32)} if "length" in found else {}
    for name in ("attention_mask", "encoder_attention_mask"):
        if name in found:
            found[name] = np.ones_like(found[name])
            found[name][-1, 1:][-2:] = 0
            found[name][0, :-2] = 0
    if "length" in found:
        found["attention_mask"][:, : before + sizes["new"]] = 1
        found["attention_mask"][:, before + sizes["new"] :] = 0
        found["attention_mask"][0, :before][:1] = 0
    return found
