"""Random changes of the pictures that a model is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from PIL import Image

from blip_core.datasets.rand_augment import rand_augment
from blip_core.processing.pictures import Colour, on_ground
from blip_core.tasks import get_task
from blip_core.validators import is_number, number

CELLS = 4  # of the grid of an elastic distortion, along each side
ERASED = (0.02, 0.2)  # share of the picture that erasing covers


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a picture, in this order; the defaults are the original's except in pre-training.

    Attributes:
        crop_scale: Range of the share of the area that a random crop keeps before it is resized; None resizes the whole
            picture.
        crop_ratio: Range of the crop's width / height.
        flip: Probability of mirroring.
        rotate: Greatest rotation either way, in degrees.
        scale: Range of a factor of size.
        translate: Greatest shift, as a share of the side.
        elastic: Standard deviation of the points of a grid that bends the picture, as a share of the side.
        random_background: Probability of a random colour behind a transparent picture and around a moved one.
        rand_augment: Number and magnitude (0 to 10) of RandAugment's operations; None for none.
        hue: Greatest change either way, as a share of the circle, up to 0.5.
        saturation: Greatest relative change either way.
        brightness: The same.
        erase: Probability of covering a rectangle of 2 to 20 % with a random colour.

    An empty list stands for None, which TOML does not have.

    Raises:
        ValueError: For a value out of its range.

    Example:
        >>> Augmentation(flip=0.0, rotate=20).rotate
        20
    """

    crop_scale: tuple[float, float] | None = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    elastic: float = 0.0
    random_background: float = 0.0
    rand_augment: tuple[int, int] | None = (2, 5)
    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("scale", math.inf)):
            self._set_pair(name, limit)
        if self.rand_augment is not None:
            pair = tuple(self.rand_augment) if isinstance(self.rand_augment, list | tuple) else (self.rand_augment,)
            if pair and not (len(pair) == 2 and all(type(v) is int for v in pair) and pair[0] > 0 <= pair[1] <= 10):
                raise ValueError(f"rand_augment must be [operations, magnitude from 0 to 10], got {pair!r}.")
            object.__setattr__(self, "rand_augment", pair or None)
        limits = {"rotate": 180.0, "hue": 0.5}
        for field in fields(self):
            value, limit = getattr(self, field.name), limits.get(field.name, 1.0)
            if field.type == "float":
                number(field.name, value, least=0, most=limit)

    def _set_pair(self, name: str, limit: float) -> None:
        value = getattr(self, name)
        pair = tuple(value) if isinstance(value, list | tuple) else value
        if name == "crop_scale" and pair in (None, ()):
            pair = None
        elif not (isinstance(pair, tuple) and len(pair) == 2 and all(map(is_number, pair))) or not (
            0 < pair[0] <= pair[1] <= limit
        ):
            raise ValueError(f"{name} must be two numbers above 0, the lesser first, up to {limit:g}, got {value!r}.")
        object.__setattr__(self, name, pair)

    @classmethod
    def original(cls, task: str) -> Self:
        """Return the original's augmentation for a task."""
        return cls(crop_scale=get_task(task).crop_scale)

    def __call__(
        self,
        image: Image.Image,
        size: tuple[int, int],
        noise: np.random.Generator,
        background: Colour | None = None,
        resample: int = Image.Resampling.BICUBIC,
    ) -> Image.Image:
        """Augment a picture.

        Args:
            image: Of mode RGB or RGBA.
            size: Width and height of the result.
            noise: Determines what is done.
            background: The colour behind transparent and around moved pictures, where it is not random. Without one,
                alpha is dropped and the surroundings are black.
            resample: Pillow's filter for resizing.

        Returns:
            A picture of mode RGB.
        """
        ground = background
        if self.random_background and noise.random() < self.random_background:
            ground = _random_colour(noise)
        if ground is None:
            image = image.convert("RGB")
        if self.crop_scale is not None:
            image = image.crop(crop_box(*image.size, self.crop_scale, self.crop_ratio, noise))
        if image.size != size:
            image = image.resize(size, Image.Resampling(resample))
        if noise.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rotate or self.translate or self.elastic or self.scale != (1.0, 1.0):
            image = self._move(image.convert("RGBA"), noise)
        image = on_ground(image, ground or (0, 0, 0))
        if self.rand_augment is not None:
            image = rand_augment(image, noise, *self.rand_augment)
        if self.hue or self.saturation or self.brightness:
            image = self._recolour(image, noise)
        if self.erase and noise.random() < self.erase:
            image = image.copy()
            image.paste(_random_colour(noise), crop_box(*image.size, ERASED, (1 / 3, 3.0), noise))
        return image

    def _move(self, image: Image.Image, noise: np.random.Generator) -> Image.Image:
        """Rotate, scale, shift and bend in one step; the surroundings are transparent."""
        sides = np.array(image.size, np.float64)
        angle = math.radians(noise.uniform(-self.rotate, self.rotate))
        factor = math.exp(noise.uniform(*np.log(self.scale)))
        shift = noise.uniform(-self.translate, self.translate, 2) * sides
        cells = CELLS if self.elastic else 1
        edges = [np.rint(np.linspace(0, side, cells + 1)).astype(int) for side in image.size]
        points = np.stack(np.meshgrid(*edges), axis=-1)  # (rows + 1, columns + 1, 2), x before y
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / factor
        sources = (points - sides / 2 - shift) @ turn + sides / 2
        sources += noise.normal(size=sources.shape) * self.elastic * sides
        boxes = np.concatenate([points[:-1, :-1], points[1:, 1:]], axis=-1).reshape(-1, 4)
        corners = [sources[:-1, :-1], sources[1:, :-1], sources[1:, 1:], sources[:-1, 1:]]  # counter-clockwise
        mesh = list(zip(boxes.tolist(), np.concatenate(corners, axis=-1).reshape(-1, 8).tolist(), strict=True))
        return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)

    def _recolour(self, image: Image.Image, noise: np.random.Generator) -> Image.Image:
        values = np.arange(256)
        turned = (values + round(noise.uniform(-self.hue, self.hue) * 256)) % 256
        factors = [1 + noise.uniform(-limit, limit) for limit in (self.saturation, self.brightness)]
        scaled = [np.clip(np.rint(values * factor), 0, 255) for factor in factors]
        table = np.concatenate([turned, *scaled]).astype(int).tolist()
        return image.convert("HSV").point(table).convert("RGB")


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], noise: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return a random rectangle (left, top, right, bottom) with a share of the area and a width / height in ranges.

    The share, the logarithm of the ratio and the place are uniformly distributed. After ten rectangles that do not fit
    it is the largest centred one with a ratio in the range. Source: torchvision's RandomResizedCrop, which the original
    uses.
    """
    for _ in range(10):
        area = width * height * noise.uniform(*scale)
        side = math.exp(noise.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * side)), round(math.sqrt(area / side))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(noise.integers(width - w + 1)), int(noise.integers(height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _random_colour(noise: np.random.Generator) -> Colour:
    red, green, blue = noise.integers(256, size=3).tolist()
    return red, green, blue
