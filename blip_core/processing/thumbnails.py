"""Small pictures for web pages, as text to put into them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable

from PIL import Image

from blip_core.processing.pictures import to_colour, to_rgb

SIDE = 128
"""The longer side, in pixels."""


def thumbnail(image: Image.Image, name: str) -> str:
    """Return a small JPEG of a picture on white as a data URI; `name` stands for the picture in messages."""
    small = to_rgb(image, name, to_colour("white"))
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "jpeg")


def image_tag(load: Callable[[], Image.Image], name: str) -> str:
    """Return the `<img>` of a picture on a page, or what is wrong with one that `load` cannot read."""
    try:
        return f"<img src='{thumbnail(load(), name)}' alt=''>"
    except (OSError, ValueError) as error:
        return f"<div class='bad'>{html.escape(str(error))}</div>"


def data_uri(content: bytes, kind: str) -> str:
    """Return the bytes of a picture as a data URI; `kind` is its format, such as "png"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
