"""Pictures of requests: from bytes, base64 or an address to a checked file, and only then to pixels."""

from __future__ import annotations

import base64
import binascii

from PIL import Image

from blip_core.processing.picture_files import open_image
from blip_core.serving.errors import Refused
from blip_core.serving.fetching import fetch
from blip_core.serving.server_settings import Settings

ADDRESSES = ("http://", "https://")


def from_text(text: str, settings: Settings) -> bytes:
    """Return the file that a text holds, as base64 or a data URI, or that it names, as an address.

    Raises `Refused` for anything else: a path is never followed.
    """
    if text.startswith(ADDRESSES):
        if not settings.allow_urls:
            raise Refused(422, "image is an address, which this server does not fetch; send the picture itself.")
        return fetch(text, settings.body_bytes)
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise Refused(422, "image must be a data URI in base64, such as data:image/png;base64,...")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "image must be a picture in base64 or a data URI, or a file of a form.") from None


def check_picture(content: bytes, settings: Settings) -> None:
    """Look at the header of a picture's file, whose type is what its content says.

    Raises `Refused` for what is no picture, and for one with more pixels than may be decoded.
    """
    if not content:
        raise Refused(422, "image is empty; send a picture.")
    try:
        with open_image(content, "image") as (image, _):
            width, height = image.size
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise too_large(settings) from None
        raise Refused(422, f"{error}; send a JPEG, PNG, WebP or another common format.") from None
    if width * height > settings.pixels:
        raise too_large(settings)


def too_large(settings: Settings) -> Refused:
    """A picture has too many pixels."""
    return Refused(413, f"image has more than {settings.max_pixels:g} million pixels; send a smaller one.")
