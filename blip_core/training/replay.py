"""Pictures mixed from those that are learned, with what the model says of them before it learns.

Learned with the others, they hold the model to what it said of pictures that are unlike the new ones: a few pictures
would otherwise change what it says of all. No other data are needed. See "Learning without Forgetting" (arXiv
1606.09282), which keeps what a model said of the new pictures themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

from blip_core.datasets import Dataset, Example, Picture
from blip_core.files import atomic_path, read_json, write_json
from blip_core.inference import Captioner
from blip_core.processing.pictures import to_colour, to_rgb
from blip_core.training.run_folder import REPLAY
from blip_core.training.settings import Settings
from blip_core.training.start import Start

CAPTIONS = "captions.json"
KEPT = 200
"""How many of the pictures to mix are in memory."""


def make_replay(model: Any, start: Start, settings: Settings, dataset: Dataset, folder: Path) -> None:
    """Write `settings.replay` mixed pictures for each example, and what the model says of them, into a run's folder."""
    place = folder / REPLAY
    place.mkdir(parents=True, exist_ok=True)
    images = start.processor.image_processor
    size = (images.size["width"], images.size["height"])
    ground = to_colour(settings.background or images.background or "black")
    noise = np.random.default_rng([settings.seed, len(dataset)])
    known = _pictures(dataset, size, ground, noise)
    captioner = Captioner(model, start.processor)
    said: dict[str, str | None] = {}
    names = [f"{number:06}.png" for number in range(settings.replay * len(dataset) if known else 0)]
    for first in range(0, len(names), settings.batch_size):
        some = names[first : first + settings.batch_size]
        mixed = [mix(known, noise) for _ in some]
        for name, image in zip(some, mixed, strict=True):
            with atomic_path(place / name) as temporary:
                image.save(temporary, "PNG")
        pixels = np.concatenate([images(image)["pixel_values"] for image in mixed])
        written = captioner.write({"pixel_values": pixels}, num_beams=1)
        said |= {name: caption.text for name, caption in zip(some, written, strict=True)}
    write_json(place / CAPTIONS, said)


def with_replay(dataset: Dataset, folder: Path) -> Dataset:
    """Return a data set with the mixed pictures of a run's folder behind it."""
    place = folder / REPLAY
    mixed = [
        Example(f"{REPLAY}:{name}", (Picture(str(place / name)),), (caption or "",))
        for name, caption in read_json(place / CAPTIONS).items()
    ]
    return Dataset(dataset.task, [*dataset, *mixed], dataset.problems, dataset.forms, dataset.splits)


def mix(images: Sequence[Image.Image], noise: np.random.Generator) -> Image.Image:
    """Make a picture of two of the same size that looks like neither.

    It is their mean, their product, a mosaic of both, or a turned part or negative of one in other colours.
    """
    one, other = (images[int(index)] for index in noise.integers(len(images), size=2))
    width, height = one.size
    kind = int(noise.integers(5))
    if kind == 0:
        return Image.blend(one, other, float(noise.uniform(0.35, 0.65)))
    if kind == 1:
        return ImageChops.multiply(one, other)
    if kind == 2:
        return ImageOps.invert(one).rotate(90 * int(noise.integers(1, 4)))
    if kind == 3:
        mosaic, cells = one.copy(), int(noise.integers(2, 5))
        wide, high = max(width // cells, 1), max(height // cells, 1)
        for x in range(0, width, wide):
            for y in range(0, height, high):
                if noise.random() < 0.5:
                    left, top = (int(noise.integers(side)) for side in (width - wide + 1, height - high + 1))
                    mosaic.paste(other.crop((left, top, left + wide, top + high)), (x, y))
        return mosaic
    left, top = (int(noise.integers(side // 2 + 1)) for side in (width, height))
    part = one.crop((left, top, left + width // 2, top + height // 2)).resize(one.size)
    channels = part.split()
    order = ((1, 2, 0), (2, 0, 1), (0, 2, 1))[int(noise.integers(3))]
    return Image.merge("RGB", [channels[index] for index in order]).rotate(90 * int(noise.integers(4)))


def _pictures(dataset: Dataset, size: tuple[int, int], ground: Any, noise: np.random.Generator) -> list[Image.Image]:
    """Some of the pictures of a data set, of one size; those that cannot be read are left out."""
    found = []
    for index in noise.permutation(len(dataset))[:KEPT].tolist():
        picture = dataset[index].images[0]
        try:
            found.append(to_rgb(picture.load(), picture.name, ground).resize(size, Image.Resampling.BICUBIC))
        except (OSError, ValueError) as error:
            dataset.report(dataset[index].key, str(error))
    return found
