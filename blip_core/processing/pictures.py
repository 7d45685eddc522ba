"""Convert pictures of any mode and number type: to RGB, to arrays, resized and scaled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from blip_core.engines import ENGINES

Colour = tuple[int, int, int]

LAYOUTS = ("channels_first", "channels_last")


def flatten(images: Any, name: str = "images") -> Iterator[tuple[str, Any]]:
    """Yield each picture with a name for error messages, from nested lists and arrays of four dimensions."""
    if isinstance(images, list | tuple) or getattr(images, "ndim", None) == 4:
        for index, image in enumerate(images):
            yield from flatten(image, f"{name}[{index}]")
    else:
        yield name, images


def to_colour(value: str | Sequence[int] | None, name: str = "background") -> Colour | None:
    """Return a colour given by its name ("white", "#ffcc00") or its three values from 0 to 255; None stays None.

    Raises `ValueError` for anything else.
    """
    if value is None:
        return None
    try:
        colour = ImageColor.getrgb(value)[:3] if isinstance(value, str) else tuple(value)
    except (TypeError, ValueError):
        colour = ()
    if len(colour) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in colour):
        raise ValueError(f"{name} must be a colour, 'white', '#ffcc00' or three numbers from 0 to 255, got {value!r}.")
    return colour[0], colour[1], colour[2]


def on_ground(image: Image.Image, ground: Colour) -> Image.Image:
    """Put an RGBA picture on a background of one colour; RGB stays as it is."""
    if image.mode == "RGB":
        return image
    result = Image.new("RGB", image.size, ground)
    result.paste(image, mask=image.getchannel("A"))
    return result


def to_rgb(image: Image.Image, name: str, background: Colour | None = None) -> Image.Image:
    """Convert a PIL image of any mode to RGB.

    Transparent parts are put on the background; without one their stored colours are used, as in transformers, with a
    warning. Pixels of 16 or 32 bits are scaled to 8, see `to_8_bits`.

    Raises `ValueError` naming the picture for a mode that PIL cannot convert, or values that cannot be scaled.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    try:
        if image.has_transparency_data and image.mode[0] not in "IF":
            if background is not None:
                return on_ground(image.convert("RGBA"), background)
            if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
                warnings.warn(TRANSPARENT, stacklevel=2)  # located here: shown once, not for each picture
        return to_8_bits(image, name).convert("RGB")
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name} cannot be made RGB: {error}; convert it first.") from None


TRANSPARENT = (
    "A picture has transparent parts, whose stored colours are used; give a background such as 'white' to put pictures "
    "on it."
)


def to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale a picture of 16 or 32 bit integers or floating-point numbers to 0 to 255.

    Values within 0 to 255 stay as they are, as in transformers, where larger ones become white. Here 65535 becomes 255
    (in floating point also 1), with a warning. Raises `ValueError` for any other range.
    """
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    fractions = image.mode == "F" and high <= 1
    if not 0 <= low <= high <= 65535:  # also refuses NaN
        raise ValueError(
            f"{name} has values from {low} to {high}, whose black and white are unknown; scale them to 0 to 255."
        )
    if not fractions and high <= 255:
        return image
    top = 1 if fractions else 65535
    warnings.warn(f"{name} has values up to {high:g}: 0 to {top} become 0 to 255.", stacklevel=4)
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def to_array(image: Any, name: str) -> np.ndarray:
    """Return an array or a tensor of either framework as a NumPy array of three dimensions, checked.

    Raises `ValueError` naming the picture for another type or number of dimensions, no pixels, NaN or infinity.
    """
    if hasattr(image, "detach"):  # torch
        image = image.detach().cpu()
        image = image.float() if str(image.dtype) == "torch.bfloat16" else image  # NumPy has no bfloat16
    elif not isinstance(image, np.ndarray) and not hasattr(image, "numpy"):
        raise ValueError(
            f"{name} must be a path, a PIL image, a NumPy array or a tensor, got {type(image).__name__}: {image!r:.80}"
        )
    array = np.asarray(image)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.ndim != 3:
        raise ValueError(
            f"{name} must have 3 dimensions, (height, width, channels) or (channels, height, width), "
            f"got shape {array.shape}."
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if not array.size:
        raise ValueError(f"{name} has no pixels: its shape is {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values; replace them first.")
    return array


def find_layout(shape: tuple[int, ...], name: str) -> str:
    """Infer the layout of an array from a first or last dimension of 3, else 1; first where both fit.

    Raises `ValueError` where neither fits, and warns where both do.
    """
    if shape[0] in (1, 3) and shape[2] in (1, 3):
        warnings.warn(
            f"{name} of shape {shape} could have its channels first or last; pass input_data_format.", stacklevel=4
        )
    for channels in (3, 1):
        for position, layout in zip((0, 2), LAYOUTS, strict=True):
            if shape[position] == channels:
                return layout
    raise ValueError(
        f"{name} of shape {shape} has neither 1 nor 3 channels, first or last; pass RGB or grey values, "
        "or say where the channels are with input_data_format."
    )


def resize(image: Image.Image | np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize a PIL image or an array (height, width, channels) through PIL, which works on 8 bits.

    Whole numbers 0-255 (of any dtype) give uint8. Fractions 0-1 are quantised to 8 bits, resized, and returned as
    float32 0-1, as transformers does. Raises `ValueError` for other values.
    """
    fractions = False
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            fractions = not np.allclose(image, image.astype(int))
            if image.min() < 0 or image.max() > (1 if fractions else 255):
                raise ValueError(
                    f"do_resize needs whole numbers from 0 to 255 or fractions from 0 to 1, got {image.dtype} from "
                    f"{image.min()} to {image.max()}; bring the picture into one of these, or pass do_resize=False."
                )
            image = (scale(image, 255) if fractions else image).astype(np.uint8)
        if image.shape[-1] > 4:
            raise ValueError(
                f"do_resize works on 1 to 4 channels, got {image.shape[-1]}; check input_data_format, which says where "
                "the channels are."
            )
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = np.asarray(image.resize((width, height), Image.Resampling(resample)))
    resized = resized[..., None] if resized.ndim == 2 else resized
    return scale(resized, 1 / 255) if fractions else resized


def fast_resize(image: Image.Image | np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize by PyTorch what it resizes as Pillow does but for rounding: 8 bits of RGB, bilinear or bicubic.

    All else is resized by `resize`.
    """
    pixels = np.asarray(image) if isinstance(image, Image.Image) and image.mode == "RGB" else image
    mode = FAST_MODES.get(resample)
    if mode is None or not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[-1] != 3:
        return resize(image, height, width, resample)
    resized: np.ndarray = ENGINES["pt"].backend.resize_pixels(pixels, height, width, mode)
    return resized


FAST_MODES = {Image.Resampling.BILINEAR.value: "bilinear", Image.Resampling.BICUBIC.value: "bicubic"}
"""PyTorch's names of the filters that it has, by Pillow's numbers."""


def crop_centre(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out the middle of planes (channels, height, width); zeros go around what is smaller."""
    for axis, wanted in ((1, height), (2, width)):
        given = planes.shape[axis]
        if wanted > given:
            around = [(0, 0)] * 3
            around[axis] = ((wanted - given) // 2, (wanted - given + 1) // 2)
            planes = np.pad(planes, around)
        else:
            first = (given - wanted) // 2
            planes = planes.take(range(first, first + wanted), axis)
    return planes


def pad_pictures(pictures: Sequence[np.ndarray], size: dict[str, int] | None, first: bool) -> list[np.ndarray]:
    """Bring pictures to one size, that of the largest sides unless given, with zeros at the bottom and on the right.

    `first` says that channels come first. Raises `ValueError` for a picture larger than the size.
    """
    start = 1 if first else 0
    shapes = [picture.shape[start : start + 2] for picture in pictures]
    height, width = (size["height"], size["width"]) if size else np.max(shapes, axis=0)
    for index, (rows, columns) in enumerate(shapes):
        if rows > height or columns > width:
            raise ValueError(f"images[{index}] of {rows} x {columns} is larger than the pad_size, {height} x {width}.")
    more = [[(0, height - rows), (0, width - columns)] for rows, columns in shapes]
    around = [[(0, 0), *sides] if first else [*sides, (0, 0)] for sides in more]
    return [np.pad(picture, sides) for picture, sides in zip(pictures, around, strict=True)]


def scale(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply in float64 and round once to float32, so that the result equals transformers' to the last bit."""
    product = image.astype(np.float64)
    product *= factor
    return product.astype(np.float32)


def look_up(values: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Map uint8 planes (channels, height, width) through one table for each channel, `values` (channels, 256)."""
    found = np.empty(planes.shape, values.dtype)
    for table, plane, out in zip(values, planes, found, strict=True):
        np.take(table, plane, out=out, mode="clip")  # no index is out of range; this mode writes without a buffer
    return found
