"""Boxes in pictures: how far two agree, and which of several a map means.

A box is x and y of its upper left corner, width and height, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = Sequence[float]
ALPHA = 0.5
"""The power of a box's area by which the sum of a map in it is divided, so that large boxes do not always win."""


def box_iou(one: Box, other: Box) -> float:
    """Return the intersection of two boxes over their union, 0 to 1. Source: ALBEF's evaluation on RefCOCO+.

    Example:
        >>> box_iou((0, 0, 10, 10), (5, 0, 10, 10)) == 50 / 150
        True
    """
    width, height = (
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1)
    )
    # Corners are whole pixels there, ends included: what overlaps by a row or a column of pixels alone does not count.
    shared = width * height if min(width, height) > 1 else 0.0
    return float(shared / (one[2] * one[3] + other[2] * other[3] - shared))


def best_box(heat: np.ndarray, boxes: Sequence[Box]) -> Box:
    """Return the box that has most of a map: its sum in the box over the root of the box's area.

    Source: ALBEF's evaluation on RefCOCO+, which so ranks the boxes of a detector.

    Args:
        heat: The map, a value for each pixel (height, width).
        boxes: The boxes to choose from, one or more.
    """

    def score(box: Box) -> float:
        x, y, width, height = box[:4]
        inside = heat[int(y) : int(y + height), int(x) : int(x + width)].sum()
        return float(inside / (width * height) ** ALPHA)

    return max(boxes, key=score)[:4]


def is_inside(point: tuple[float, float] | None, box: Box) -> bool:
    """Say whether a point (x, y) lies in a box: the pointing game. Source: Zhang et al. 2016, without a margin."""
    return point is not None and all(box[i] <= point[i] <= box[i] + box[i + 2] for i in (0, 1))
