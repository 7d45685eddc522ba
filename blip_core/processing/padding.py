"""Truncation and padding of rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from blip_core.engines import ENGINES
from blip_core.processing.inputs import BlipInputs, stack
from blip_core.validators import Validator, choice, whole_number

LENGTH: Validator = partial(whole_number, least=1)
"""Validates a number of tokens."""
SIDES = ("right", "left")
FILLS = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0), "labels": -100}
"""What rows besides `input_ids` are padded with, by name; rows of other names are not padded."""


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
    rows: Sequence[list[Any]],
    fill: Any,
    padding: bool | str,
    max_length: int | None,
    multiple_of: int | None,
    side: str,
) -> list[list[Any]]:
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


def pad_inputs(
    inputs: Any,
    pad_token_id: int,
    padding: bool | str,
    max_length: int | None,
    multiple_of: int | None,
    side: str,
    add_mask: bool,
    return_tensors: str | None,
) -> BlipInputs:
    """Pad what a model is given, by name; see `BlipTokenizer.pad` and `pad_rows`.

    `inputs` are rows by name, or a list of examples, each with one row by name; `add_mask` makes the `attention_mask`
    that is not there. Raises `ValueError` where there are no rows of `input_ids`, or where examples do not fit
    together.
    """
    columns = _columns(inputs)
    if "input_ids" not in columns:
        raise ValueError(f"There must be input_ids to pad, got {', '.join(columns) or 'nothing'}.")
    fills = {"input_ids": pad_token_id, **FILLS}
    return_tensors = return_tensors or _kind(columns["input_ids"])
    columns = {name: _to_lists(rows) if name in fills else rows for name, rows in columns.items()}
    single = not isinstance(inputs, list | tuple) and not any(isinstance(row, list) for row in columns["input_ids"])
    if single:
        columns = {name: [rows] for name, rows in columns.items()}
    if add_mask and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
    for name, rows in columns.items():
        if name in fills and all(isinstance(row, list) for row in rows):  # not labels that are one number each
            columns[name] = pad_rows(rows, fills[name], padding, max_length, multiple_of, side)
    if single and return_tensors is None:
        return BlipInputs({name: rows[0] for name, rows in columns.items()})
    remedy = "pass padding=True to bring the texts to one length"
    return BlipInputs({name: stack(name, rows, return_tensors, remedy) for name, rows in columns.items()})


def _columns(inputs: Any) -> dict[str, Any]:
    """Return rows by name; of a list of examples, after checking that all have the same names."""
    if isinstance(inputs, Mapping) or hasattr(inputs, "keys"):
        return dict(inputs)
    if not isinstance(inputs, list | tuple) or not all(isinstance(e, Mapping) or hasattr(e, "keys") for e in inputs):
        raise ValueError(f"Rows to pad must be a dictionary, or a list of one for each example, got {inputs!r:.80}.")
    names = {name: None for example in inputs for name in example}
    for index, example in enumerate(inputs):
        if missing := [name for name in names if name not in example]:
            raise ValueError(f"Example {index} has no {', '.join(missing)}, which others have.")
    return {name: [example[name] for example in inputs] for name in names}


def _kind(rows: Any) -> str | None:
    """Return the `return_tensors` that gives what rows are: an engine's name, "np", or None for lists."""
    first = rows[0] if isinstance(rows, list | tuple) and rows else rows
    if isinstance(first, np.ndarray):
        return "np"
    return next((engine.name for engine in ENGINES.values() if engine.owns(first)), None)


def _to_lists(value: Any) -> Any:
    """Return lists of lists or tensors, an array or a tensor as lists of plain numbers."""
    if isinstance(value, list | tuple):
        return [row if isinstance(row, tuple) else _to_lists(row) for row in value]
    if hasattr(value, "numpy") and not hasattr(value, "tolist"):  # TensorFlow
        value = value.numpy()
    return value.tolist() if hasattr(value, "tolist") else value
