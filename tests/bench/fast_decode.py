"""Photographs of 12 megapixels prepared with and without `fast_decode`: the time of each, and whether captions agree.

    python -m tests.bench.fast_decode [FOLDER] [--model MODEL]

The pictures of the folder, those of the tests unless given, are scaled to 12 megapixels and saved as JPEG, quality 90.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np

from blip_core.inference import Captioner
from blip_core.processing.picture_files import is_picture_name, load_image
from blip_core.processing.pictures import to_rgb

PIXELS = 12_000_000
ROUNDS = 3
PHOTOS = Path(__file__).parents[1] / "data" / "photos"


def large(path: Path) -> bytes:
    """A picture as a JPEG file of 12 megapixels."""
    image = to_rgb(load_image(path), str(path), (255, 255, 255))
    scale = (PIXELS / (image.width * image.height)) ** 0.5
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default=PHOTOS, type=Path)
    parser.add_argument("--model")
    args = parser.parse_args()
    pictures = [large(path) for path in sorted(args.folder.iterdir()) if is_picture_name(str(path))]
    models = [Captioner.from_pretrained(args.model, fast_decode=fast) for fast in (False, True)]
    seconds, pixels = ([], []), ([], [])
    for _ in range(ROUNDS):
        for fast, model in enumerate(models):
            begin = time.perf_counter()
            found = [model.processor(images=picture, return_tensors="np").pixel_values[0] for picture in pictures]
            seconds[fast].append((time.perf_counter() - begin) / len(pictures))
            pixels[fast][:] = found
    captions = [[one.text for one in model(pictures)] for model in models]
    exact, fast = (statistics.median(some) for some in seconds)
    differences = [np.abs(one - other).mean() for one, other in zip(*pixels, strict=True)]
    agree = sum(one == other for one, other in zip(*captions, strict=True))
    print(f"{len(pictures)} pictures: {exact:.3f} s each, fast {fast:.3f} s: {exact / fast:.2f} times as fast")
    print(f"mean difference of pixel_values {np.mean(differences):.4f}, the most of a picture {max(differences):.4f}")
    print(f"captions that are the same: {agree} of {len(pictures)}")


if __name__ == "__main__":
    main()
