"""Matching a checkpoint's tensors with a model's parameters, by the weight table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from blip_core.weights import (
    BUFFERS,
    LM_HEAD,
    MODELS,
    MOMENTUM,
    ORIGINAL_VISION,
    TIED_PROJECTION,
    TRAINING_STATE,
    VISION,
    AnyConfig,
    Parameter,
    Part,
    parameters,
)


@dataclass(frozen=True)
class Match:
    """Where a checkpoint holds a model: its parameters, the tensor of each by name, and the parts it has nothing of."""

    parameters: list[Parameter]
    sources: dict[str, str]
    new_parts: list[str]


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+\.", ".{}.", name)


def _patterns(part: Part, prefix: str) -> set[str]:
    rows = [(row.original if prefix == ORIGINAL_VISION else row.hf, *row.also) for row in part.rows]
    names = {prefix + name for names in rows for name in names}
    return names | {prefix + TIED_PROJECTION} if part.rows is LM_HEAD else names


KNOWN = {
    name for parts in MODELS.values() for part in parts for prefix in part.prefixes for name in _patterns(part, prefix)
}


def match(model: str, config: AnyConfig, shapes: Mapping[str, tuple[int, ...]], *, resize: bool = False) -> Match:
    """Find every parameter of a model among the tensors of a checkpoint, given as names and shapes.

    A part of the model of which the checkpoint holds nothing is new; tensors of other models' parts are passed over.
    With `resize`, a position embedding of another square image is accepted. Raises one `ValueError` that names every
    missing, unexpected, duplicate and misshapen tensor.
    """
    wanted = parameters(model, config)
    sources: dict[str, str] = {}
    missing, misshapen, duplicate, used, new = [], [], [], [], []
    for part in dict.fromkeys(parameter.part for parameter in wanted):
        own = [parameter for parameter in wanted if parameter.part == part]
        held = {prefix: sum(p.places(prefix)[0] in shapes for p in own) for prefix in part.prefixes}
        prefix = max(held, key=lambda place: held[place])
        if not any(name in shapes for p in own for name in p.places(prefix)):
            new.append(part.label)
            continue
        used.append((part, prefix))
        if part.rows is VISION and sum(count > 0 for count in held.values()) > 1:
            duplicate += [f"{part.label} (under {' and '.join(repr(p) for p, count in held.items() if count)})"]
        for parameter in own:
            source = next((name for name in parameter.places(prefix) if name in shapes), None)
            if source is None:
                missing.append(parameter.places(prefix)[0])
                continue
            sources[parameter.name] = source
            if shapes[source] != parameter.shape and not (resize and _resizable(parameter, shapes[source])):
                misshapen.append(f"{source} {list(shapes[source])} instead of {list(parameter.shape)}")
    if not sources:
        some = ", ".join(sorted(shapes)[:3]) or "none at all"
        raise ValueError(f"the checkpoint holds no tensor of a {model}; it must be of another model (it has {some}).")
    expected = {name for part, prefix in used for p in wanted if p.part == part for name in p.places(prefix)}
    inside = {name for part, prefix in used for name in _patterns(part, prefix) if "{}" in name}
    unexpected = [n for n in shapes if n not in expected and (not _known(n) or _pattern(n) in inside)]
    problems = {"missing": missing, "unexpected": unexpected, "duplicate": duplicate, "misshapen": misshapen}
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names)
        raise ValueError(f"the checkpoint does not fit a {model} of this configuration: {listed}.")
    return Match(wanted, sources, new)


def _known(name: str) -> bool:
    return _pattern(name) in KNOWN or name.endswith(BUFFERS) or name in TRAINING_STATE or name.startswith(MOMENTUM)


def _resizable(parameter: Parameter, shape: tuple[int, ...]) -> bool:
    side = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
    return parameter.row.name == "position_embedding" and side > 0 and shape == (1, side**2 + 1, parameter.shape[2])
