"""Pictures read for training, with a cache in memory."""

from __future__ import annotations

import threading

from PIL import Image

from blip_core.datasets.examples import Picture
from blip_core.processing.pictures import to_rgb


class PictureLoader:
    """Read pictures as RGB, or with `keep_alpha` as RGBA if they are transparent; threads may share it.

    Up to `megabytes` of decoded pictures are cached, those that came first: each epoch reads all once, so that
    replacing some would not help. `least` is that of `load_image`.
    """

    def __init__(self, megabytes: int, keep_alpha: bool, least: int | None = None):
        self.keep_alpha, self.least = keep_alpha, least
        self.room = megabytes * 2**20
        self.kept: dict[Picture, Image.Image] = {}
        self.lock = threading.Lock()

    def __call__(self, picture: Picture) -> Image.Image:
        """Return the picture, which the caller must not change; raises what `Picture.load` does."""
        if (kept := self.kept.get(picture)) is not None:
            return kept
        image = picture.load(self.least)
        transparent = self.keep_alpha and image.has_transparency_data
        image = image.convert("RGBA") if transparent else to_rgb(image, picture.name)
        size = 4 * image.width * image.height  # Pillow uses four bytes a pixel for RGB, too
        with self.lock:
            if size <= self.room and picture not in self.kept:
                self.room -= size
                self.kept[picture] = image
        return image
