"""Pictures in: from files, PIL images, arrays and tensors to what the image processor works on."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("channels_first", "channels_last")

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".jxl", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What a file in a folder must end in to be taken for a picture; a file that is named itself may end in anything."""


def is_picture_name(path: str) -> bool:
    """Say whether a file of a folder is taken for a picture by its name, which must not begin with a dot."""
    return path.lower().endswith(SUFFIXES) and not os.path.basename(path).startswith(".")


def load_image(
    source: str | os.PathLike[str] | bytes | Image.Image,
    apply_exif_orientation: bool | None = None,
    name: str = "The image",
) -> Image.Image:
    """Read a picture from a file, or the bytes of one, into memory; a PIL image is loaded if it was not and given back.

    The mode stays that of the file. An animation gives its first frame. `apply_exif_orientation` turns the picture as
    its camera noted; None turns files and leaves PIL images, as transformers does. `name` is for messages about
    what came from no file.

    Raises `OSError` for a file that is missing, truncated or not a picture, and `ValueError` for one of more pixels
    than PIL lets pass (twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million; from half of it on PIL warns), each naming it.
    """
    if not isinstance(source, bytes):
        name = getattr(source, "filename", "") or name if isinstance(source, Image.Image) else os.fspath(source)
    try:
        if isinstance(source, Image.Image):
            source.load()
            return ImageOps.exif_transpose(source) if apply_exif_orientation else source
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return image if apply_exif_orientation is False else ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{name} is too large: {error} Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:  # the decoders raise OSError, SyntaxError, struct.error and more for broken files
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the operating system, which names the file
        unknown = isinstance(error, UnidentifiedImageError)  # what it says has the address of an object
        reason = "its format is not known" if unknown else error
        raise OSError(f"{name} is not a picture that can be read whole: {reason}") from error


def flatten(images: Any, name: str = "images") -> Iterator[tuple[str, Any]]:
    """Yield each picture with a name for error messages, out of lists in lists and arrays of four dimensions."""
    if isinstance(images, list | tuple) or getattr(images, "ndim", None) == 4:
        for index, image in enumerate(images):
            yield from flatten(image, f"{name}[{index}]")
    else:
        yield name, images


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a PIL image of any mode as PIL does: alpha is dropped, 16-bit values above 255 are cut to 255.

    Raises `ValueError` naming the picture for a mode that PIL cannot convert.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") and np.asarray(image).max() > 255:
        warnings.warn(
            f"{name} has more than 8 bits and becomes white wherever its values exceed 255, as in transformers; "
            "divide it by 256 to keep the picture.",
            stacklevel=4,
        )
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"{name} cannot be made RGB: {error}; convert it first.") from None


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


def find_format(shape: tuple[int, ...], name: str) -> str:
    """Tell whether 3 channels, else 1 channel, come first or last in a shape; first where it could be both.

    Raises `ValueError` where neither is so, and warns where it is a guess.
    """
    if shape[0] in (1, 3) and shape[2] in (1, 3):
        warnings.warn(
            f"{name} of shape {shape} could have its channels first or last; pass input_data_format.", stacklevel=4
        )
    for channels in (3, 1):
        for position, format_name in zip((0, 2), FORMATS, strict=True):
            if shape[position] == channels:
                return format_name
    raise ValueError(
        f"{name} of shape {shape} has neither 1 nor 3 channels, first or last; pass RGB or grey values, "
        "or say where the channels are with input_data_format."
    )


def resize(image: Image.Image | np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize a PIL image or an array (height, width, channels) through PIL, which works on 8 bits.

    Whole numbers 0-255 (of any dtype) give uint8. Fractions 0-1 are cut to 8 bits, resized, and given back as float32
    0-1, as transformers does. Raises `ValueError` for other values.
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


def scale(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply in float64 and round once to float32, which is what makes the result the same to the last bit."""
    product = image.astype(np.float64)
    product *= factor
    return product.astype(np.float32)


def look_up(values: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """What each channel's `values` (channels, 256) say of its uint8 plane (channels, height, width), in one pass."""
    found = np.empty(planes.shape, values.dtype)
    for table, plane, out in zip(values, planes, found, strict=True):
        np.take(table, plane, out=out, mode="clip")  # no number is out of range; this mode writes without a buffer
    return found
