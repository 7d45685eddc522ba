"""Truncation and padding of rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blip_core.validators import Validator, choice, whole_number

LENGTH: Validator = partial(whole_number, least=1)
"""Validates a number of tokens."""


def kept_lengths(sizes: Sequence[int], room: int, truncation: bool | str) -> list[int]:
    """Return how many tokens to keep of a text, or of each of two, so that together they fit into `room`.

    `truncation` is True or "longest_first" (the longer is cut until both are as long, then both), "only_first" or
    "only_second". Raises `ValueError` where the text to cut is too short for that.
    """
    excess = sum(sizes) - room
    if excess <= 0:
        return list(sizes)
    if truncation in ("only_first", "only_second"):
        cut = int(truncation == "only_second")
        if cut >= len(sizes):
            raise ValueError("truncation='only_second' needs text_pair; use truncation=True.")
        if sizes[cut] < excess:
            raise ValueError(
                f"truncation={truncation!r} would have to drop {excess} tokens of a text of {sizes[cut]}; use "
                "truncation=True, which cuts the longer text, or a greater max_length."
            )
        return [size - excess * (index == cut) for index, size in enumerate(sizes)]
    if len(sizes) == 1:
        return [room]
    shorter = min(*sizes, room // 2)
    return [room - shorter, shorter] if sizes[0] > sizes[1] else [shorter, room - shorter]


def pad_rows(
    rows: Sequence[list[int]],
    fill: int,
    padding: bool | str,
    max_length: int | None,
    multiple_of: int | None,
    side: str,
) -> list[list[int]]:
    """Pad rows to the length of the longest, or with `padding="max_length"` to `max_length`; False leaves them.

    The length is rounded up to a `multiple_of`; `side`, "right" or "left", is where `fill` goes. Longer rows are not
    cut.
    """
    choice("padding", padding, (False, True, "longest", "max_length", "do_not_pad"))
    if padding in (False, "do_not_pad"):
        return list(rows)
    length = max(map(len, rows), default=0)
    if padding == "max_length":
        LENGTH("max_length", max_length)
        length = max_length or 0
    if multiple_of is not None:
        LENGTH("pad_to_multiple_of", multiple_of)
        length = -(-length // multiple_of) * multiple_of
    fills = [[fill] * (length - len(row)) for row in rows]
    return [row + more if side == "right" else more + row for row, more in zip(rows, fills, strict=True)]
