"""NLVR2's JSON lines, in which the names of the two pictures follow from the sentence's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blip_core.datasets.look import Item, Look, each, field
from blip_core.datasets.plain_files import json_objects


def is_nlvr(look: Look) -> bool:
    """Lines with a `sentence` and an `identifier`, and without the pictures' own names."""
    return look.opening == "{" and {"sentence", "identifier"} <= look.entry.keys() and "images" not in look.entry


def read_nlvr(look: Look) -> Iterator[Item]:
    """Yield the sentences with their left and right pictures."""
    return each(json_objects(look.path), _pair)


def _pair(entry: Any) -> dict[str, Any]:
    identifier = field(entry, "identifier", str)
    begin, dash, _ = identifier.rpartition("-")
    if not dash or "/" in identifier:
        raise ValueError(f"identifier must be such as 'train-10171-0-0', got {identifier!r:.80}")
    folder = entry.get("directory")  # of the training set
    names = [f"{begin}-img{side}.png" for side in (0, 1)]
    choices = [(f"{folder}/{name}", name) if isinstance(folder, int | str) else (name,) for name in names]
    return {"images": choices, "sentence": entry.get("sentence"), "label": entry.get("label")}
