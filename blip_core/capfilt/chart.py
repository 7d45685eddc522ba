"""Draw histograms of scores, and precision and recall by threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blip_core.capfilt.calibration import Curve

BINS = 20
WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 1200, 330, 90, 30, 60, 50  # pixels
INK, FAINT, PALE = "#222222", "#dddddd", "#c9c9c9"
COLOURS = {"web": "#3b6fb6", "synthetic": "#c0702a"}


def draw_scores(scores: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> Image.Image:
    """Draw a histogram for each source, RGB; bars below its threshold are grey.

    `scores`: for each source the counts in BINS equal parts of 0 to 1.
    """
    image, draw, title, small = _sheet(len(scores))
    left, right = LEFT, WIDTH - RIGHT
    for panel, (source, counts) in enumerate(scores.items()):
        top, bottom = panel * PANEL + TOP, (panel + 1) * PANEL - BOTTOM
        threshold = thresholds[source]
        line = left + threshold * (right - left)
        total = int(counts.sum())
        shares = counts / max(total, 1)
        most = max(float(shares.max()), 0.01)
        draw.text((left, top - 16), f"{source} captions: {total:,}", INK, title, anchor="ls")
        for level in (0, 0.5, 1):
            y = bottom - level * (bottom - top)
            draw.line((left, y, right, y), FAINT, 1)
            draw.text((left - 10, y), f"{level * most:.1%}", INK, small, anchor="rm")
        for bin_, share in enumerate(shares):
            first, last = (left + (bin_ + edge) / BINS * (right - left) for edge in (0, 1))
            height = share / most * (bottom - top)
            if share:
                _bar(draw, first + 2, min(last - 2, line), bottom - height, bottom, PALE)
                _bar(draw, max(first + 2, line), last - 2, bottom - height, bottom, COLOURS.get(source, INK))
        for tick in range(11):
            x = left + tick / 10 * (right - left)
            draw.text((x, bottom + 8), f"{tick / 10:g}", INK, small, anchor="ma")
        draw.line((line, top - 8, line, bottom), INK, 2)
        side, anchor = (-6, "rs") if threshold > 0.8 else (6, "ls")
        draw.text((line + side, top - 12), f"threshold {threshold:g}", INK, small, anchor=anchor)
    return image


def draw_curves(curves: Mapping[str, Curve]) -> Image.Image:
    """Draw precision (dark) and recall (the source's colour) by threshold for each source, RGB."""
    image, draw, title, small = _sheet(len(curves))
    left, right = LEFT, WIDTH - RIGHT
    for panel, (source, curve) in enumerate(curves.items()):
        top, bottom = panel * PANEL + TOP, (panel + 1) * PANEL - BOTTOM

        def place(x: float, y: float, top: int = top, bottom: int = bottom) -> tuple[float, float]:
            return left + x * (right - left), bottom - y * (bottom - top)

        said = f"{source}: {curve.matches} of {curve.pairs} match; precision dark, recall coloured"
        draw.text((left, top - 16), said, INK, title, anchor="ls")
        for level in (0, 0.5, 1):
            draw.line((place(0, level), place(1, level)), FAINT, 1)
            draw.text((left - 10, place(0, level)[1]), f"{level:.0%}", INK, small, anchor="rm")
        for tick in range(11):
            draw.text((place(tick / 10, 0)[0], bottom + 8), f"{tick / 10:g}", INK, small, anchor="ma")
        for field, colour in ((1, INK), (2, COLOURS.get(source, INK))):
            draw.line([place(point[0], point[field]) for point in curve.points], colour, 3)
        draw.line((place(curve.threshold, 0), place(curve.threshold, 1)), PALE, 2)
        draw.text((place(curve.threshold, 1)[0], top - 4), f"{curve.threshold:g}", INK, small, anchor="ms")
    return image


def _sheet(panels: int) -> tuple[Image.Image, ImageDraw.ImageDraw, Any, Any]:
    """A white picture for so many panels, a pen for it, and the fonts of titles and of all else."""
    image = Image.new("RGB", (WIDTH, PANEL * panels), "white")
    return image, ImageDraw.Draw(image), ImageFont.load_default(24), ImageFont.load_default(18)


def _bar(draw: ImageDraw.ImageDraw, left: float, right: float, top: float, bottom: float, colour: str) -> None:
    if right > left:
        draw.rectangle((left, min(top, bottom - 1), right, bottom), colour)
