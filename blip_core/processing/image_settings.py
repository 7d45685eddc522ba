"""The settings of the image processor that need validators of their own, and BLIP's values of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.engines import ENGINES
from blip_core.processing.pictures import to_colour
from blip_core.validators import choice, is_number, is_whole, require

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LARGEST = 4096
"""The largest height and width to resize pictures to; BLIP's are 224 to 480."""


def sides(name: str, value: Any, optional: bool = False) -> dict[str, int] | None:
    """Validate a size: height and width by name, a pair, or one number for a square; None is 384, or no size."""
    if optional and value is None:
        return None
    given: Any = 384 if value is None else value
    if is_whole(given):
        given = (given, given)
    if isinstance(given, Sequence) and len(given) == 2:
        given = dict(zip(("height", "width"), given, strict=True))
    good = isinstance(given, dict) and given.keys() == {"height", "width"}
    good = good and all(is_whole(pixels) and 0 < pixels <= LARGEST for pixels in given.values())
    expected = f'{{"height": pixels, "width": pixels}} or one number of pixels, from 1 to {LARGEST}'
    require(good, name, value, expected)
    return {side: int(pixels) for side, pixels in given.items()}


def resizing_backend(name: str, value: Any) -> str:
    """Validate what resizes pictures. Raises `MissingFramework` where "fast" has no PyTorch."""
    choice(name, value, ("exact", "fast"))
    if value == "fast":
        ENGINES["pt"].require(f"{name}='fast'")
    return str(value)


def per_channel(name: str, value: Any, default: Sequence[float], zero: bool = True) -> float | list[float]:
    """Validate one number, or a list with one for each channel; None stands for BLIP's."""
    value = default if value is None else value
    values = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
    good = bool(values) and all(map(is_number, values))
    require(good, name, value, "a finite number or a list of one per channel")
    if not zero and not all(values):
        raise ValueError(f"{name} must not be zero, got {value}.")
    return float(value) if is_number(value) else [float(v) for v in values]


def colour(name: str, value: Any) -> Any:
    """Validate a colour, see `to_colour`; a name stays a name."""
    found = to_colour(value, name)
    return value if found is None or isinstance(value, str) else list(found)
