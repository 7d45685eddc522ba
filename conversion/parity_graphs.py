"""The parts of exported graphs as stages of a comparison: each is run on what the first side gave before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from blip_core.parameters.graph_parts import PARTS, axis_sizes
from conversion.parity_models import Arrays, ParityModel


class Stage(NamedTuple):
    """One call of a part: how it is called in a report, its name, what it takes and what the first side gave."""

    label: str
    part: str
    given: Arrays
    found: Arrays


def part_stages(model: ParityModel, inputs: Arrays) -> Iterator[Stage]:
    """Yield every part that a model has, run on pictures and texts and on the outputs of the parts before it."""
    known: Arrays = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask") if name in inputs}
    pairs = model.head.pictures == 2
    if pairs:
        known["pixel_values"] = known["pixel_values"].reshape(-1, *known["pixel_values"].shape[-3:])
    for name, part in PARTS.items():
        if part.loop or name not in model.parts:
            continue
        if name == "begin":
            known |= _decoding(model, known)
        given = {key: known[key] for key in part.inputs}
        found = model.run_part(name, given)
        yield Stage(name, name, given, found)
        known |= found
        if name == "image_features" and pairs:
            known["image_embeds"] = found["image_embeds"].reshape(-1, 2, *found["image_embeds"].shape[1:])
        if name == "step":  # and once more, for the likeliest token
            token = found["logits"].argmax(axis=1)[:, None]
            ends = known["attention_mask"].copy()
            ends[:, -1] = 1
            given = {
                **given,
                **found,
                "input_ids": token,
                "attention_mask": ends,
                "length": np.array(ends.shape[1] - 1),
            }
            given = {key: given[key] for key in part.inputs}
            yield Stage("next step", name, given, model.run_part(name, given))


def _decoding(model: ParityModel, known: Arrays) -> Arrays:
    """Return what the parts of a decoder take: states, and the texts as prompts with room for one more token."""
    ids, mask = known["input_ids"], known["attention_mask"]
    states = known.get("encoder_states", known.get("image_embeds"))
    if states is None:
        width = axis_sizes(type(model.model).__name__.removeprefix("TF"), model.model.config)["states_width"]
        states = np.random.default_rng(5).standard_normal((len(ids), 5, width), np.float32)
    seen = mask if "encoder_states" in known else np.ones(states.shape[:2], np.int32)
    rows, capacity = np.array(len(states)), np.array(ids.shape[1] + 1)
    room = np.pad(mask, [(0, 0), (0, 1)])
    own = {"encoder_states": states, "rows": rows, "capacity": capacity, "length": np.array(0)}
    return {**own, "encoder_attention_mask": seen, "attention_mask": room}
