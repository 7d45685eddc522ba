"""Drawings with made-up names, which no model knows, and what a model keeps of what it said before it learned them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SYLLABLES = "zor bla mik tuf nel quo rim pax dov gli sna wub fep jol kir vam lun tre hob yas"
COLOURS = ("#d32f2f", "#1976d2", "#388e3c", "#fbc02d", "#7b1fa2", "#5d4037", "#00acc1", "#e91e63", "#ff9800", "#455a64")
SIDE = 128


def draw(folder: Path, count: int, seed: int = 0) -> dict[Path, str]:
    """Draw random shapes on white, each with a text file that holds a name of two or three syllables; return both."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    found: dict[Path, str] = {}
    while len(found) < count:
        name = "".join(noise.choice(SYLLABLES.split(), noise.integers(2, 4), replace=False))
        if name in found.values():
            continue
        image = Image.new("RGB", (SIDE, SIDE), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(int(noise.integers(3, 7))):
            colour = COLOURS[int(noise.integers(len(COLOURS)))]
            points = [(int(x), int(y)) for x, y in noise.integers(8, SIDE - 8, (int(noise.integers(3, 7)), 2))]
            left, top, wide, high = (int(number) for number in noise.integers((8, 8, 16, 16), (80, 80, 44, 44)))
            box = (left, top, left + wide, top + high)
            kind = int(noise.integers(4))
            if kind == 0:
                pen.ellipse(box, colour, "black")
            elif kind == 1:
                pen.rectangle(box, colour, "black")
            elif kind == 2:
                pen.polygon(points, colour)
            else:
                pen.line(points, colour, int(noise.integers(3, 9)))
        path = folder / f"{len(found):03}.png"
        image.save(path)
        path.with_suffix(".txt").write_text(f"{name}\n")
        found[path] = name
    return found


def same(one: Sequence[str | None], other: Sequence[str | None]) -> float:
    """Return the share of captions that are the same."""
    return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))


def kept(before: Sequence[str | None], after: Sequence[str | None], truths: Sequence[str]) -> float:
    """Return the share of captions that are as before, or right."""
    return float(np.mean([new in (old, truth) for old, new, truth in zip(before, after, truths, strict=True)]))
