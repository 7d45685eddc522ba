"""Small programs in the manner of public ones for BLIP. Each gets `blip`, the library it imports the names from.

A program is a function without a leading underscore. `at` is a folder with small checkpoints (`caption`, `vqa`, `itm`,
`plain`), each with its processor, and room to write. It returns what it would print: numbers, tensors and texts.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

PHOTOS = Path(__file__).parents[2] / "data" / "photos"


def picture(name: str = "astronaut.jpg") -> Image.Image:
    return Image.open(PHOTOS / name).convert("RGB")
