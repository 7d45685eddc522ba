"""Web pages that are whole in one file: their frame, and small pictures as text to put into them."""

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


def web_page(title: str, body: str, style: str = "") -> str:
    """Return a page of its own, for light and dark screens of any width.

    Args:
        title: The title and the heading, as plain text.
        body: HTML below the heading. What is in `cards` lies in a grid, a `figure` is a card, `pictures` holds those of
            a card, and `pale`, `good` and `bad` colour what is said.
        style: CSS beyond that of all pages.
    """
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}</title>\n<style>{STYLE}{style}</style>\n<h1>{name}</h1>\n{body}\n</html>\n"
    )


STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.4 system-ui, sans-serif; max-width: 1000px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 24px } h2 { font-size: 18px; margin: 32px 0 12px } svg { width: 100%; height: auto }
table { border-collapse: collapse; overflow-wrap: anywhere }
th, td { padding: 4px 16px 4px 0; text-align: left; font-weight: normal; vertical-align: top }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 16px; margin: 16px 0 }
figure { margin: 0; padding: 10px; border: 1px solid #8886; border-radius: 6px; overflow-wrap: anywhere }
figure p { margin: 6px 0 0 }
.pictures { min-height: 128px; display: flex; gap: 8px; align-items: center; justify-content: center }
.pictures img { max-width: 100%; max-height: 128px }
th, .pale { color: #777 } .good { color: light-dark(#186a3b, #6fce97) } .bad { color: light-dark(#a33, #f28b82) }
"""
