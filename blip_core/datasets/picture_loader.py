"""Pictures read for training: their transparency kept or dropped, small ones kept in memory."""

from __future__ import annotations

import threading

from PIL import Image

from blip_core.datasets.examples import Picture
from blip_core.processing.pictures import to_rgb


class PictureLoader:
    """Read pictures as RGB, or where `keep_alpha` and they are transparent as RGBA; threads may share it.

    Up to `megabytes` of read pictures stay in memory, those that came first: each epoch reads all, so that none is
    worth more than another.
    """

    def __init__(self, megabytes: int, keep_alpha: bool):
        self.keep_alpha = keep_alpha
        self.room = megabytes * 2**20
        self.kept: dict[Picture, Image.Image] = {}
        self.lock = threading.Lock()

    def __call__(self, picture: Picture) -> Image.Image:
        """The picture, not to be changed. Raises `OSError` and `ValueError` as `Picture.load` does."""
        if (kept := self.kept.get(picture)) is not None:
            return kept
        image = picture.load()
        transparent = self.keep_alpha and image.has_transparency_data
        image = image.convert("RGBA") if transparent else to_rgb(image, picture.name)
        size = 4 * image.width * image.height  # Pillow's, of RGB too
        with self.lock:
            if size <= self.room and picture not in self.kept:
                self.room -= size
                self.kept[picture] = image
        return image
