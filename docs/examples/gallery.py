"""Draw docs/site/gallery.png: what the model in the package says of drawings that it has never seen.

    python -m docs.examples.gallery [FILE]

Six of the drawings in tests/data/emoji, evenly spaced in the order of their names: chosen by a rule, not by how well
they come out. Under each stand its caption with the confidence, and one answer; beside it lies the heat map of its
caption.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from blip_core import Answerer, Captioner, Explainer
from blip_core.inference.heatmaps import overlay

EMOJI = Path(__file__).parents[2] / "tests" / "data" / "emoji"
FILE = Path(__file__).parents[1] / "site" / "gallery.png"
COUNT, SIDE, GAP, LINES = 6, 150, 20, 78
QUESTION = "what color is it mostly?"
INK, PALE = (30, 30, 30), (110, 110, 110)


def main(file: Path = FILE) -> None:
    """Describe the drawings and write the picture."""
    pictures = sorted(EMOJI.glob("*.png"))
    pictures = pictures[:: len(pictures) // COUNT][:COUNT]
    captioner, answerer, explainer = (kind.from_pretrained() for kind in (Captioner, Answerer, Explainer))
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    cell = 2 * SIDE + GAP
    page = Image.new("RGB", (3 * cell + 4 * GAP, 2 * (SIDE + LINES) + 3 * GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, path in enumerate(pictures):
        caption, answer = captioner(path), answerer(path, QUESTION)
        found = explainer(path, caption.text)
        drawing = found.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        x, y = GAP + number % 3 * (cell + GAP), GAP + number // 3 * (SIDE + LINES + GAP)
        page.paste(drawing, (x, y))
        page.paste(overlay(drawing, found.maps.mean(axis=0)), (x + SIDE + GAP // 2, y))
        draw.text((x, y + SIDE + 8), f"“{caption.text}”", INK, large)
        draw.text((x, y + SIDE + 32), f"confidence {caption.confidence:.0%}", PALE, small)
        draw.text((x, y + SIDE + 50), f"{QUESTION} {answer.text}", PALE, small)
    page.quantize(255).save(file, optimize=True)  # small enough for a repository
    print(f"Wrote {file}.")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
