"""Matching a checkpoint's tensors with a model's parameters, by the weight table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from blip_core.parameters.heads import HEADS, ORIGINAL_VISION, AnyConfig, Part
from blip_core.parameters.models import Parameter, parameters, training_state
from blip_core.parameters.table import BUFFERS, VISION


@dataclass(frozen=True)
class Match:
    """Where a checkpoint holds a model.

    `sources` gives the tensor of each parameter by name, `tied` the copies of a tensor that are there as well,
    `new_parts` what the checkpoint has nothing of, `misfits` the parameters that have another shape, and `problems` the
    missing, unexpected, duplicate and misshapen tensors, each kind in a list.
    """

    parameters: list[Parameter]
    sources: dict[str, str]
    tied: dict[str, list[str]]
    new_parts: list[str]
    problems: dict[str, list[str]]
    misfits: list[Parameter] = field(default_factory=list)

    def without_misfits(self) -> Match:
        """Return the match without the parameters of another shape, which are then drawn anew."""
        strange = {parameter.name for parameter in self.misfits}
        sources = {name: source for name, source in self.sources.items() if name not in strange}
        return replace(self, sources=sources, problems={k: v for k, v in self.problems.items() if k != "misshapen"})

    def check(self, model: str, names: Iterable[str]) -> None:
        """Raise a `ValueError` where a checkpoint with tensors of these names does not hold the model."""
        if not self.sources:
            some = ", ".join(sorted(names)[:3]) or "none at all"
            raise ValueError(f"the checkpoint holds nothing of a {model}; it must be of another model (it has {some}).")
        if self.problems:
            listed = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in self.problems.items())
            raise ValueError(f"the checkpoint does not fit a {model} of this configuration: {listed}.")


def match(
    model: str,
    config: AnyConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    resize: bool = False,
    with_state: bool = False,
) -> Match:
    """Find every parameter of a model among the tensors of a checkpoint, given as names and shapes.

    A part of the model of which the checkpoint holds nothing is new; tensors of other models' parts are passed over.
    With `resize`, a position embedding of another square image is accepted; `with_state` adds the training state that
    the checkpoint holds. Raises one `ValueError` that names every missing, unexpected, duplicate and misshapen tensor.
    """
    found = compare(model, config, shapes, resize=resize, with_state=with_state)
    found.check(model, shapes)
    return found


def compare(
    model: str,
    config: AnyConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    resize: bool = False,
    with_state: bool = False,
) -> Match:
    """As `match`, but problems are returned. `with_state` adds the training state that the checkpoint holds."""
    state = training_state(model, config) if with_state else []  # type: ignore[arg-type]  # only models of BlipConfig
    wanted, sources, tied = parameters(model, config), {}, {}
    missing, misshapen, duplicate, used, new = [], [], [], [], []
    misfits = []
    for part in dict.fromkeys(parameter.part for parameter in [*wanted, *state]):
        own = [parameter for parameter in [*wanted, *state] if parameter.part == part]
        held = {prefix: sum(p.usual(prefix) in shapes for p in own) for prefix in part.prefixes}
        prefix = max(held, key=lambda place: held[place])
        if not any(name in shapes for p in own for name in p.places(prefix)):
            if own[0] in state:
                state = [parameter for parameter in state if parameter.part != part]
            else:
                new.append(part.label)
            continue
        used.append((part, prefix))
        if part.rows is VISION and sum(count > 0 for count in held.values()) > 1:
            duplicate += [f"{part.label} (under {' and '.join(repr(p) for p, count in held.items() if count)})"]
        for parameter in own:
            source = next((name for name in parameter.places(prefix) if name in shapes), None)
            if source is None:
                missing.append(parameter.usual(prefix))
                continue
            sources[parameter.name] = source
            tied[source] = [n for n in parameter.copies(prefix) if n in shapes and n != source]
            wrong = [
                f"{name} {list(shapes[name])} instead of {list(parameter.shape)}"
                for name in (source, *tied[source])
                if shapes[name] != parameter.shape and not (resize and _resizable(parameter, shapes[name]))
            ]
            misshapen += wrong
            misfits += [parameter] * bool(wrong)
    places = [(p, prefix) for part, prefix in used for p in (*wanted, *state) if p.part == part]
    expected = {name for parameter, prefix in places for name in parameter.places(prefix)}
    inside = {name for part, prefix in used for name in _patterns(part, prefix) if "{}" in name}
    unexpected = [n for n in shapes if n not in expected and (not known(n) or _pattern(n) in inside)]
    problems = {"missing": missing, "unexpected": unexpected, "duplicate": duplicate, "misshapen": misshapen}
    found = {kind: names for kind, names in problems.items() if names}
    return Match([*wanted, *state], sources, tied, new, found, misfits)


def find_model(names: Mapping[str, object]) -> str | None:
    """Name the model of a checkpoint's tensors: of those with all parts there, the one that explains most tensors."""
    patterns = [_pattern(name) for name in names]
    best, most = None, 0
    for head in HEADS.values():
        needed = [part for part in head.parts if part.label != "pooler" and not part.rows[0].start]
        places = [_place(part, set(patterns)) for part in needed]
        explained = {name for part, prefix in places for name in _patterns(part, prefix)}
        count = sum(pattern in explained for pattern in patterns)
        if count > most and all(_patterns(part, prefix) & set(patterns) for part, prefix in places):
            best, most = head.name, count
    return best


def label_tensors(model: str, names: Mapping[str, object]) -> dict[str, str]:
    """Say of every tensor of a checkpoint which part of a model it is, by the part's label.

    Copies of another tensor are "tied copies", position numbers "buffers", parts of other models "other models".
    """
    patterns = {_pattern(name) for name in names}
    labels: dict[str, str] = {}
    for part in (*HEADS[model].parts, *HEADS[model].state):
        _, prefix = _place(part, patterns)
        copies = {_pattern(name) for row in part.rows for name in part.copies_of(row, prefix)}
        labels |= dict.fromkeys(copies - labels.keys(), "tied copies")
        labels |= dict.fromkeys(_patterns(part, prefix) - copies, part.label)
    kinds = {True: "other models", False: "unknown"}
    return {
        name: "buffers" if name.endswith(BUFFERS) else labels.get(_pattern(name)) or kinds[known(name)]
        for name in names
    }


def known(name: str) -> bool:
    """Say whether a tensor has its place in any BLIP model, or is a buffer of one."""
    return _pattern(name) in KNOWN or name.endswith(BUFFERS)


def other_names(name: str) -> list[str]:
    """List the names under which checkpoints may hold the tensor that a model has under a name, that name first."""
    layer, found = re.search(r"\.(\d+)\.", name), [name]
    for part in (part for head in HEADS.values() for part in (*head.parts, *head.state)):
        for row in part.untied().rows:
            if name in ((part.prefix + own).format(layer and layer[1]) for own in (row.name, *row.also)):
                for prefix in part.prefixes:
                    usual = row.original if prefix.startswith(ORIGINAL_VISION) else row.name
                    found += [prefix + own.format(layer and layer[1]) for own in (usual, *row.also)]
    return list(dict.fromkeys(found))


def _place(part: Part, patterns: set[str]) -> tuple[Part, str]:
    return part, max(part.prefixes, key=lambda prefix: len(_patterns(part, prefix) & patterns))


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+\.", ".{}.", name)


def _patterns(part: Part, prefix: str) -> set[str]:
    original = prefix.startswith(ORIGINAL_VISION)
    names = {prefix + (row.original if original else row.name) for row in part.rows}
    return {_pattern(name) for name in names.union(*(part.copies_of(row, prefix) for row in part.rows))}


KNOWN = {
    name
    for head in HEADS.values()
    for part in (*head.parts, *head.state)
    for prefix in part.prefixes
    for name in _patterns(part, prefix)
}


def _resizable(parameter: Parameter, shape: tuple[int, ...]) -> bool:
    side = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
    return parameter.row is VISION[1] and side > 0 and shape == (1, side**2 + 1, parameter.shape[2])
