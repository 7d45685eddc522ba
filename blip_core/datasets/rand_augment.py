"""RandAugment as BLIP uses it: a few of ten operations on 8-bit RGB, all of one magnitude.

Source: the original's `RandomAugment(2, 5)`, which uses OpenCV. Its operations are the same as Pillow's except for the
geometric ones: there pixel centres have integer coordinates, and edges blend into the grey around the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)
STEPS = 10  # the greatest magnitude


def rand_augment(
    image: Image.Image, noise: np.random.Generator, operations: int = 2, magnitude: int = 5
) -> Image.Image:
    """Draw `operations` of the ten with replacement and apply each with a chance of a half; RGB -> RGB of that size."""
    for name in noise.choice(list(OPERATIONS), operations):
        if noise.random() < 0.5:
            image = OPERATIONS[name](image, magnitude / STEPS, 1 if noise.random() < 0.5 else -1)
    return image


def shear(image: Image.Image, x: float, y: float) -> Image.Image:
    """Move each pixel to the right by `x` times its row and down by `y` times its column."""
    return _affine(image, (1, -x, 0, -y, 1, 0))


def translate(image: Image.Image, x: float, y: float) -> Image.Image:
    """Move the picture to the right and down by pixels."""
    return _affine(image, (1, 0, -x, 0, 1, -y))


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Turn the picture counter-clockwise around the pixel (width / 2, height / 2)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = image.width / 2, image.height / 2
    return _affine(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    """Take each pixel (column, row) from a x + b y + c, d x + e y + f, bilinearly, with grey all around."""
    a, b, c, d, e, f = matrix
    # Pillow's pixel centres are at halves. The border of two pixels makes edges blend into the grey.
    c, f = c + (1 - a - b) / 2 + 2, f + (1 - d - e) / 2 + 2
    framed = ImageOps.expand(image, 2, GREY)
    return framed.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR, fillcolor=GREY
    )


def _brightness(image: Image.Image, strength: float, sign: int) -> Image.Image:
    factor = _enhancement(strength)
    return image.point([min(int(value * factor), 255) for value in range(256)] * 3)


def _sharpness(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_enhancement(strength))


def _enhancement(strength: float) -> float:
    """A factor from 0.1 to 1.9; at the original's magnitude of 5 it is 1 and changes nothing."""
    return strength * 1.8 + 0.1


OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "Identity": lambda image, strength, sign: image,
    "AutoContrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "Equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "ShearX": lambda image, strength, sign: shear(image, sign * strength * 0.3, 0),
    "ShearY": lambda image, strength, sign: shear(image, 0, sign * strength * 0.3),
    "TranslateX": lambda image, strength, sign: translate(image, sign * strength * 10, 0),
    "TranslateY": lambda image, strength, sign: translate(image, 0, sign * strength * 10),
    "Rotate": lambda image, strength, sign: rotate(image, sign * strength * 30),
}
"""By the original's names: (picture, magnitude from 0 to 1, direction 1 or -1) -> picture."""
