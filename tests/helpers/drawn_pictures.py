"""Pictures of every kind, and what becomes of them: cases that several tests share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
SIZE = {"height": 20, "width": 31}
HALF = {"image_mean": 0.5, "image_std": 0.25}


def photo(name: str = "cat.png") -> Image.Image:
    return Image.open(PHOTOS / name)


def cat(dtype: Any = np.uint8) -> np.ndarray:
    """The cat as an array (169, 213, 3)."""
    return np.asarray(photo()).astype(dtype)


def grey() -> Image.Image:
    return photo("camera_grey.png")


def palette() -> Image.Image:
    image = Image.fromarray(np.asarray(grey()))
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    return image


def with_alpha(image: Image.Image) -> Image.Image:
    ramp = Image.fromarray(np.arange(image.width * image.height, dtype=np.uint8).reshape(image.height, image.width))
    return Image.merge(image.mode + "A", [*image.split(), ramp])


def deep(factor: int = 2) -> Image.Image:
    """16 bits a pixel, values from 0 to 255 times the factor."""
    return Image.fromarray(np.asarray(grey()).astype(np.uint16) * factor)


# What goes in, the options, and the hash of what transformers 4.57.6 gives, which
# tests/oracle/test_transformers_processing.py checks.
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "defaults": (photo, {}, "ba6d8067f09840e2"),
    "size": (photo, {"size": SIZE}, "ed904f8b4fc5f142"),
    "larger": (photo, {"size": {"height": 301, "width": 250}}, "0a80b7260b68ed2d"),
    "nearest": (photo, {"size": SIZE, "resample": 0}, "8a529229c81c9bcb"),
    "lanczos": (photo, {"size": SIZE, "resample": 1}, "ab0709d6e8769d5b"),
    "bilinear": (photo, {"size": SIZE, "resample": 2}, "540016ae8dd7b138"),
    "no resize": (photo, {"do_resize": False}, "d840803dae300919"),
    "no rescale": (photo, {"size": SIZE, "do_rescale": False}, "5766bc32788e0911"),
    "no normalize": (photo, {"size": SIZE, "do_normalize": False}, "b53e18bb86674e74"),
    "only resize": (photo, {"size": SIZE, "do_rescale": False, "do_normalize": False}, "d210505413f2b23c"),
    "factor": (photo, {"size": SIZE, "rescale_factor": 1 / 127.5}, "f4d07af3c7f8eaef"),
    "mean and std": (
        photo,
        {"size": SIZE, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        "5bc935d4fcda13aa",
    ),
    "one mean": (photo, {"size": SIZE, **HALF}, "3aff10c0ce463f13"),
    "channels last": (photo, {"size": SIZE, "data_format": "channels_last"}, "bfedded80bb829d1"),
    "grey": (grey, {"size": SIZE}, "25e73ad8b655d0b1"),
    "palette": (palette, {"size": SIZE}, "53e4082ef6dda769"),
    "palette and alpha": (lambda: palette().convert("PA"), {"size": SIZE}, "53e4082ef6dda769"),
    "grey and alpha": (lambda: with_alpha(grey()), {"size": SIZE}, "25e73ad8b655d0b1"),
    "alpha": (lambda: with_alpha(photo()), {"size": SIZE}, "ed904f8b4fc5f142"),
    "alpha kept": (
        lambda: with_alpha(photo()),
        {"size": SIZE, "do_convert_rgb": False, "input_data_format": "channels_last", **HALF},
        "1029d89055416b1c",
    ),
    "cmyk": (lambda: photo().convert("CMYK"), {"size": SIZE}, "ed904f8b4fc5f142"),
    "16 bits, values of 8": (lambda: deep(1), {"size": SIZE}, "25e73ad8b655d0b1"),
    "1 bit": (lambda: grey().convert("1", dither=Image.Dither.NONE), {"size": SIZE}, "3b2573781de38148"),
    "array": (cat, {"size": SIZE}, "ed904f8b4fc5f142"),
    "array, channels first": (lambda: cat().transpose(2, 0, 1), {"size": SIZE}, "ed904f8b4fc5f142"),
    "array of int64": (lambda: cat(np.int64), {"size": SIZE}, "ed904f8b4fc5f142"),
    "array of int32, not rescaled": (
        lambda: cat(np.int32),
        {"do_resize": False, "do_rescale": False},
        "8520487298fd7be0",
    ),
    "array of float16": (lambda: cat(np.float16), {"do_resize": False, "do_rescale": False}, "269ac25333215a68"),
    "fractions": (lambda: cat(np.float32) / 255, {"size": SIZE, "do_rescale": False}, "ed904f8b4fc5f142"),
    "fractions of float64": (lambda: cat() / 255, {"do_resize": False, "do_rescale": False}, "30233c94e75b0c9d"),
    "grey array": (lambda: cat()[..., :1], {"size": SIZE, **HALF}, "633bff8252c1f962"),
    "told layout": (
        lambda: cat()[:3, :40],
        {"size": SIZE, "input_data_format": "channels_last", "data_format": "channels_last"},
        "69cc46dded2251e1",
    ),
    "four dimensions": (lambda: np.stack([cat(), cat()[::-1]]), {"size": SIZE}, "70ec2e22793d5a1b"),
    "list": (lambda: [photo(), grey()], {"size": SIZE}, "efb74748f278f3b6"),
    "list in list": (lambda: [[photo()], [grey()]], {"size": SIZE}, "efb74748f278f3b6"),
}


def digest(pixels: Any) -> str:
    arrays = [np.ascontiguousarray(array) for array in pixels]
    parts = [f"{array.dtype}{array.shape}".encode() + array.tobytes() for array in arrays]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
