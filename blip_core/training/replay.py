"""Pictures that hold a model to what it said before: mixed from those that are learned, and drawn at random.

A few pictures would otherwise change what a model says of all. Of these pictures it learns to predict each next token
as it did before training. No other data are needed. See "Learning without Forgetting" (arXiv 1606.09282), which keeps
what a model said of the new pictures themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps

from blip_core.datasets import Dataset, Example, Picture
from blip_core.files import atomic_path, read_json, write_json
from blip_core.inference import Captioner
from blip_core.processing.pictures import to_colour, to_rgb
from blip_core.training.run_folder import REPLAY
from blip_core.training.settings import Settings
from blip_core.training.start import Start

CAPTIONS = "captions.json"
MADE, AT_ONCE = 1000, 20
"""How many pictures are made, and how many of them the model is asked about at once."""
KEPT = 200
"""How many of the pictures to mix are in memory."""


def make_replay(model: Any, start: Start, settings: Settings, dataset: Dataset, folder: Path, wanted: int) -> None:
    """Write `wanted` pictures, at most 1,000, and what the model says of them into a run's folder.

    Half of them are mixed, half are drawn.
    """
    place = folder / REPLAY
    place.mkdir(parents=True, exist_ok=True)
    images = start.processor.image_processor
    size = (images.size["width"], images.size["height"])
    ground = to_colour(settings.background or images.background or "black")
    noise = np.random.default_rng([settings.seed, len(dataset)])
    known = _pictures(dataset, size, ground, noise)
    captioner = Captioner(model, start.processor)
    said: dict[str, str | None] = {}
    names = [f"{number:06}.png" for number in range(min(wanted, MADE))]
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        made = [mix(known, noise) if known and noise.random() < 0.5 else shapes(size, ground, noise) for _ in some]
        for name, image in zip(some, made, strict=True):
            with atomic_path(place / name) as temporary:
                image.save(temporary, "PNG")
        pixels = np.concatenate([images(image)["pixel_values"] for image in made])
        written = captioner.write({"pixel_values": pixels}, num_beams=1)
        said |= {name: caption.text for name, caption in zip(some, written, strict=True)}
    write_json(place / CAPTIONS, said)


def replayed(task: str, folder: Path) -> Dataset:
    """Return the mixed pictures of a run's folder as a data set."""
    place = folder / REPLAY
    said = read_json(place / CAPTIONS)
    return Dataset(task, [Example(name, (Picture(str(place / name)),), (text or "",)) for name, text in said.items()])


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


def shapes(size: tuple[int, int], ground: Any, noise: np.random.Generator) -> Image.Image:
    """Draw up to a dozen shapes of a few colours on a ground; half of the pictures are symmetric."""
    side = 128
    image = Image.new("RGB", (side, side), ground)
    pen, colours = ImageDraw.Draw(image), noise.integers(256, size=(int(noise.integers(1, 6)), 3)).tolist()
    for _ in range(int(noise.integers(1, 13))):
        colour = tuple(colours[int(noise.integers(len(colours)))])
        wide = 4 + side * noise.uniform(0.05, 0.9) ** 1.5
        reach = np.array([wide, wide * noise.uniform(0.4, 2.2)]) / 2
        middle = noise.normal(side / 2, side / 5, 2)
        box = [*(middle - reach), *(middle + reach)]
        points = (middle + noise.uniform(-wide, wide, (int(noise.integers(3, 8)), 2))).ravel().tolist()
        begin, width, kind = float(noise.uniform(0, 360)), int(noise.integers(2, 16)), int(noise.integers(6))
        end = begin + float(noise.uniform(60, 360))
        if kind == 0:
            pen.ellipse(box, colour)
        elif kind == 1:
            pen.rectangle(box, colour)
        elif kind == 2:
            pen.polygon(points, colour)
        elif kind == 3:
            pen.line(points[:8], colour, width)
        elif kind == 4:
            pen.chord(box, begin, end, colour)
        else:
            pen.arc(box, begin, end, colour, width)
    if noise.random() < 0.5:
        image.paste(ImageOps.mirror(image.crop((0, 0, side // 2, side))), (side // 2, 0))
    return image.resize(size, Image.Resampling.BICUBIC)


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
