"""Proof that a checkpoint computes the same in both frameworks, or that two checkpoints compute the same in one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints import Checkpoint, open_checkpoint
from blip_core.checkpoints.loading import find_head
from blip_core.parameters.matching import compare
from blip_core.parameters.models import MODELS, TRAINING_STATE, AnyConfig
from conversion.parity_inputs import inputs_for, training_inputs
from conversion.parity_models import Arrays, ParityModel, load
from conversion.parity_stages import forward_stages, generation_stages, objective
from conversion.verification import check_tied

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
"""Greatest difference relative to the greatest number of a tensor, by type; half precision as it was measured."""

GRADIENT_TOLERANCE = 1e-4

MOST = 0.25
"""What is never exceeded for the sake of rounding in half precision."""


@dataclass(frozen=True)
class ParityRow:
    """One stage: the greatest absolute and relative difference, how much is allowed, and what is to be said of it.

    `kind` is "settings", "weights", "values", "gradients" or "tokens".
    """

    stage: str
    kind: str
    absolute: float
    relative: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; one that is no number never is."""
        return self.relative <= self.tolerance


@dataclass
class ParityReport:
    """What `check_parity` found: a row for every stage, in the order of the computation."""

    one: str
    other: str
    head: str
    dtype: str
    rows: list[ParityRow] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """The verdict."""
        return all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> ParityRow | None:
        """The first stage that exceeds its tolerance."""
        return next((row for row in self.rows if not row.passed), None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dictionary; a difference that is no number is null."""
        rows = [{**asdict(row), "passed": row.passed} for row in self.rows]
        for row in rows:
            row |= {name: row[name] if np.isfinite(row[name]) else None for name in ("absolute", "relative")}
        first = self.first_failure
        own = {"one": self.one, "other": self.other, "head": self.head, "dtype": self.dtype, "passed": self.passed}
        return {**own, "first_failure": first.stage if first else None, "rows": rows}


def check_parity(
    checkpoint: str | Path,
    images: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
    dtype: str = "float32",
    *,
    other: str | Path | None = None,
    framework: str = "pt",
    config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
    head: str | None = None,
) -> ParityReport:
    """Run a checkpoint in PyTorch and in TensorFlow and compare every stage; or with `other`, two in one `framework`.

    `images` (paths, arrays or PIL pictures) and `texts` are what is run; as many of each, or one text for all. Without
    them two drawn pictures and two short texts are. What takes two pictures, or learns from the difference of pairs,
    gets a drawn one beside a single one. Where the checkpoint's vocabulary has no tokenizer, token ids stand in for the
    texts. `dtype` is float32, float16 or bfloat16; gradients, an optimizer step and generated tokens are
    compared in float32. `config` and `head` are those of `convert`. Raises what loading the checkpoint raises, and
    `ValueError` for options that make no sense.
    """
    if dtype not in TOLERANCES or framework not in ("pt", "tf"):
        raise ValueError(
            f"dtype must be one of {', '.join(TOLERANCES)} and framework pt or tf, got {dtype}, {framework}."
        )
    source = open_checkpoint(checkpoint)
    head = head or find_head(source)
    if head not in MODELS:
        raise ValueError(f"{checkpoint} holds no BLIP that is known; name its class with head=.")
    kinds = [(checkpoint, "pt"), (checkpoint, "tf")] if other is None else [(checkpoint, framework), (other, framework)]
    one, two = (load(kind, head, path, dtype, config=config) for path, kind in kinds)
    names = [model.name if other is None else str(path) for model, (path, _) in zip((one, two), kinds, strict=True)]
    report = ParityReport(names[0], names[1], head, dtype)
    report.rows += _state_rows(one, two)
    report.rows += _setting_rows(one.model.config.to_dict(), two.model.config.to_dict())
    for path in dict.fromkeys(path for path, _ in kinds):
        report.rows += _tied_rows(open_checkpoint(path), head, one.model.config)
    report.rows += _weight_rows(one, two)
    first, second = inputs_for((one, two), head, source.path.parent, images, texts)
    tolerance = TOLERANCES[dtype]
    exact = None if dtype == "float32" else load(kinds[0][1], head, checkpoint, "float32", config=config)
    report.rows += _value_rows(one, two, first, second, exact, tolerance)
    if dtype == "float32":
        sides = ((one, first), (two, second))
        gradients = [model.gradients(training_inputs(model, given), objective(model)) for model, given in sides]
        report.rows += _gradient_rows(gradients[0], gradients[1])
        tokens = zip(generation_stages(one, first), generation_stages(two, second), strict=True)
        report.rows += [_row(name, "tokens", a, b, 0.0) for (name, a), (_, b) in tokens]
        for (model, given), found in zip(sides, gradients, strict=True):
            model.step(found, training_inputs(model, given))
        report.rows += _step_rows(one, two, tolerance)
    return report


def _row(stage: str, kind: str, one: np.ndarray, other: np.ndarray, tolerance: float, note: str = "") -> ParityRow:
    if one.shape != other.shape:
        return ParityRow(stage, kind, np.inf, np.inf, tolerance, f"shapes {one.shape} and {other.shape}")
    if not one.size:
        return ParityRow(stage, kind, 0.0, 0.0, tolerance, note)
    one, other = one.astype(np.float64), other.astype(np.float64)
    absolute = float(np.abs(one - other).max())
    return ParityRow(stage, kind, absolute, absolute / max(float(np.abs(one).max()), 1e-30), tolerance, note)


def _state_rows(one: ParityModel, two: ParityModel) -> Iterator[ParityRow]:
    """A row where only one has the state of training, which is then left out of all else."""
    if one.has_state != two.has_state:
        yield ParityRow(
            "training state", "settings", np.inf, np.inf, 0.0, f"only in the {('second', 'first')[one.has_state]}"
        )
        for model in (one, two):
            model.model.has_momentum = False


def _value_rows(
    one: ParityModel, two: ParityModel, first: Arrays, second: Arrays, exact: ParityModel | None, tolerance: float
) -> Iterator[ParityRow]:
    """Every stage. Where `exact`, the first model in float32, shows that rounding is larger, twice that is allowed."""
    true = dict(forward_stages(exact, first)) if exact else {}
    for (name, a), (_, b) in zip(forward_stages(one, first), forward_stages(two, second), strict=True):
        rounding = _row(name, "values", true[name], a, tolerance).relative if exact else 0.0
        yield _row(name, "values", a, b, max(tolerance, min(2 * rounding, MOST)))


def _setting_rows(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[ParityRow]:
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _setting_rows(a, b, f"{prefix}{name}.")
        elif a != b and name not in ("dtype", "torch_dtype", "architectures", "transformers_version"):
            yield ParityRow(f"{prefix}{name}", "settings", np.inf, np.inf, 0.0, f"{a} and {b}")


def _tied_rows(checkpoint: Checkpoint, head: str, config: AnyConfig) -> Iterator[ParityRow]:
    try:
        check_tied(checkpoint, compare(head, config, checkpoint.shapes))
    except ValueError as error:
        yield ParityRow("tied tensors", "weights", np.inf, np.inf, 0.0, f"{checkpoint.path.name}: {error}")


def _weight_rows(one: ParityModel, two: ParityModel) -> Iterator[ParityRow]:
    """A row for each weight that differs, with what it looks like, and one for all where none does."""
    rows = one.model.table()
    wrong = [row for row in rows if not np.array_equal(one.parameter(row), two.parameter(row))]
    for row in wrong:
        a, b = one.parameter(row), two.parameter(row)
        twin = next(
            (w.name for w in wrong if w is not row and w.shape == row.shape and np.array_equal(one.parameter(w), b)), ""
        )
        note = "is transposed" if a.ndim == 2 and np.array_equal(a.T, b) else f"holds {twin}" if twin else ""
        yield _row(row.name, "weights", a, b, 0.0, note)
    if not wrong:
        yield ParityRow(f"all {len(rows)} weights", "weights", 0.0, 0.0, 0.0)


def _gradient_rows(one: Arrays, other: Arrays) -> Iterator[ParityRow]:
    """By parameter; relative to the largest gradient of all, as some are nothing but rounding."""
    largest = max((float(np.abs(gradient).max()) for gradient in one.values()), default=1.0)
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            zero = not np.any(one.get(name, other.get(name)))
            yield ParityRow(name, "gradients", 0.0, 0.0 if zero else np.inf, GRADIENT_TOLERANCE, "only in one")
            continue
        absolute = float(np.abs(one[name] - other[name]).max())
        yield ParityRow(name, "gradients", absolute, absolute / max(largest, 1e-30), GRADIENT_TOLERANCE)


def _step_rows(one: ParityModel, two: ParityModel, tolerance: float) -> Iterator[ParityRow]:
    """One for the weights and one for the state of training, where there is any."""
    state = {part for parts in TRAINING_STATE.values() for part in parts}
    for label, wanted in (("weights", False), ("training state", True)):
        table = [row for row in one.model.table() if (row.part in state) == wanted]
        if not table:
            continue
        rows = [_row(row.name, "values", one.parameter(row), two.parameter(row), tolerance) for row in table]
        worst = max(rows, key=lambda row: row.relative)
        note = f"worst: {worst.stage}"
        yield ParityRow(f"{label} after a step", "values", worst.absolute, worst.relative, tolerance, note)
