"""Comparing what a checkpoint computes in two engines, or what two checkpoints compute in one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints import Checkpoint, open_checkpoint
from blip_core.checkpoints.exported import read_export
from blip_core.checkpoints.loading import find_head
from blip_core.engines import ENGINES, get_engine
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.matching import compare
from blip_core.validators import choice
from conversion.converter import convert
from conversion.parity_graphs import part_stages
from conversion.parity_inputs import inputs_for, training_inputs
from conversion.parity_models import LEARNING_RATE, Arrays, ParityModel
from conversion.parity_stages import forward_stages, generation_stages, objective
from conversion.verification import check_tied

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
"""Greatest difference relative to the greatest value of a tensor, by type; for half precision as measured."""

GRADIENT_TOLERANCE = 1e-4

GRAPH_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.25, "int8-dynamic": 0.25}
"""The same for exported graphs, by the type of their weights; all compute in float32."""

MOST = 0.25
"""The most that rounding in half precision can raise a tolerance to."""


@dataclass(frozen=True)
class ParityRow:
    """The comparison of one stage.

    Attributes:
        stage: What was compared, such as "vision block 3" or the name of a weight.
        kind: "settings", "weights", "values", "gradients" or "tokens".
        absolute: The greatest absolute difference.
        relative: That over the greatest absolute value; for gradients over that of all gradients.
        tolerance: The greatest relative difference that passes.
        note: What else is to be said of it.
        other: The side that was compared with the first one, where there are several.
    """

    stage: str
    kind: str
    absolute: float
    relative: float
    tolerance: float
    note: str = ""
    other: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN never is."""
        return self.relative <= self.tolerance


@dataclass
class ParityReport:
    """What `check_parity` found.

    Attributes:
        one: The first side: an engine, or a checkpoint.
        other: The second side, or the others.
        head: The class of the model.
        dtype: The type of the weights.
        rows: A row for every stage, in the order of the computation.
    """

    one: str
    other: str
    head: str
    dtype: str
    rows: list[ParityRow] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all stages agree."""
        return all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> ParityRow | None:
        """The first stage that exceeds its tolerance."""
        return next((row for row in self.rows if not row.passed), None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dictionary; differences that are not finite are null."""
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
    engines: Sequence[str] = ("pt", "tf"),
    config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
    head: str | None = None,
) -> ParityReport:
    """Run a checkpoint in several engines, or two checkpoints in one, and compare every stage.

    The stages are the settings, the weights, each layer's output, the outputs and losses, and in float32 the
    gradients, generated tokens, and the weights after a step of gradient descent. An engine that runs exports is
    compared with the first one, in float32, part by part, each on what the first one gave before it, and by generated
    tokens; a model that is no export is exported into a temporary folder for it.

    Args:
        checkpoint: A folder, a weight file or a Hub repository, in any format.
        images: Paths, arrays (height, width, channels) or PIL pictures; two drawings without them. What takes two
            pictures, or learns from the difference of pairs, gets a drawing beside a single one.
        texts: As many, or one for all pictures. Token ids stand in for texts if the model's vocabulary has no
            tokenizer.
        dtype: The type of the weights, "float32", "float16" or "bfloat16".
        other: Another checkpoint, which is compared with the first one in `engines[0]`; or an export of it, which is
            run in those of `engines` that run exports, or in one that runs this export.
        engines: The engines to compare, the first one with each of the others.
        config: As in `convert`.
        head: As in `convert`.

    Returns:
        The report; `passed` is the verdict.

    Raises:
        OSError: A checkpoint or a picture was not found.
        ValueError: A checkpoint is damaged or holds no BLIP, or an option makes no sense.

    Example:
        >>> check_parity("captioner", ["photo.jpg"], ["a picture of a dog"]).passed               # doctest: +SKIP
        True
    """
    choice("dtype", dtype, TOLERANCES)
    others = [(name, checkpoint) for name in engines[1:]] if other is None else [(engines[0], other)]
    if other is not None and (against := read_export(Path(other))):
        able = [name for name, engine in ENGINES.items() if against.form in engine.forms]
        others = [(name, other) for name in [name for name in able if name in engines] or able[:1]]
    if not others:
        raise ValueError(f"engines must be two of {', '.join(ENGINES)} (one with other=), got {', '.join(engines)}.")
    titles = [get_engine(name).title for name, _ in others]
    if other is not None:
        titles = [f"{other}{f' in {title}' * (len(others) > 1)}" for title in titles]
    if export := read_export(Path(checkpoint)):
        folder, head = export.folder, head or export.head
    else:
        source = open_checkpoint(checkpoint)
        folder, head = source.path.parent, head or find_head(source)
    if head not in HEADS:
        raise ValueError(f"{checkpoint} holds no BLIP that is known; name its class with head=.")
    first = get_engine(engines[0]).title if other is None else str(checkpoint)
    report = ParityReport(first, " and ".join(titles), head, dtype)
    with tempfile.TemporaryDirectory() as made:

        def model(engine: str, path: str | Path, kind: str = dtype) -> ParityModel:
            if not get_engine(engine).forms:
                return ParityModel(engine, head, path, kind, config=config)
            if read_export(Path(path)) is None:
                form = get_engine(engine).forms[0]
                path, source = Path(made) / form, path
                if not path.exists():
                    convert(source, path, form, config=config, dtype=dtype, head=head)
            return ParityModel(engine, head, path, "float32")

        for (engine, path), title in zip(others, titles, strict=True):
            by_parts = any(get_engine(name).forms for name in (engines[0], engine))
            one = model(
                engines[0], checkpoint, "float32" if by_parts else dtype
            )  # loaded again, as the training step changed it
            two = model(engine, path)
            given = inputs_for((one, two), folder, images, texts)
            if by_parts:
                rows = _part_rows(one, two, given[0])
            else:
                exact = None if dtype == "float32" else model(engines[0], checkpoint, "float32")
                rows = _all_rows(one, two, given[0], given[1], exact, dtype)
            report.rows += [replace(row, other=title) for row in rows]
    return report


def _all_rows(
    one: ParityModel, two: ParityModel, first: Arrays, second: Arrays, exact: ParityModel | None, dtype: str
) -> Iterator[ParityRow]:
    """Compare two models that can be trained."""
    yield from _state_rows(one, two)
    yield from _setting_rows(one.model.config.to_dict(), two.model.config.to_dict())
    for checkpoint in dict.fromkeys(model.checkpoint for model in (one, two)):
        yield from _tied_rows(open_checkpoint(checkpoint), one.head.name, one.model.config)
    yield from _weight_rows(one, two)
    tolerance = TOLERANCES[dtype]
    yield from _value_rows(one, two, first, second, exact, tolerance)
    if dtype != "float32":
        return
    sides = ((one, first), (two, second))
    gradients = [model.gradients(training_inputs(model, given), objective(model)) for model, given in sides]
    yield from _gradient_rows(gradients[0], gradients[1])
    tokens = zip(generation_stages(one, first), generation_stages(two, second), strict=True)
    yield from (_row(name, "tokens", a, b, 0.0) for (name, a), (_, b) in tokens)
    for (model, given), found in zip(sides, gradients, strict=True):
        model.step(found, training_inputs(model, given))
    yield from _step_rows(one, two, _largest(gradients[0]), tolerance)


def _part_rows(one: ParityModel, two: ParityModel, given: Arrays) -> Iterator[ParityRow]:
    """Compare an export with another model: the outputs of its parts, and the tokens of every search."""
    weights = [model.model.export.weights for model in (one, two) if model.engine.forms]
    tolerance = max(GRAPH_TOLERANCES[kind] for kind in weights)
    for stage in part_stages(one, given):
        if stage.part in two.parts:
            found = two.run_part(stage.part, stage.given)
            for name, array in stage.found.items():
                yield _row(f"{stage.label}: {name}", "values", array, found[name], tolerance)
    if not (hasattr(one.model, "generate") and hasattr(two.model, "generate")):
        return
    for (name, a), (_, b) in zip(generation_stages(one, given), generation_stages(two, given), strict=True):
        row = _row(name, "tokens", a, b, 0.0)
        if set(weights) != {"float32"} and not row.passed:  # rounded weights may choose other words
            width = max(a.shape[1], b.shape[1])
            a, b = (np.pad(each, [(0, 0), (0, width - each.shape[1])]) for each in (a, b))
            same = (a == b).all(axis=1)
            row = replace(row, absolute=1 - same.mean(), relative=1 - same.mean(), tolerance=1.0)
            row = replace(row, note=f"{same.sum()} of {len(same)} texts are the same")
        yield row


def _row(
    stage: str, kind: str, one: np.ndarray, other: np.ndarray, tolerance: float, note: str = "", scale: float = 1e-30
) -> ParityRow:
    """Compare two arrays; `scale` is the least that the difference is relative to."""
    if one.shape != other.shape:
        return ParityRow(stage, kind, np.inf, np.inf, tolerance, f"shapes {one.shape} and {other.shape}")
    if not one.size:
        return ParityRow(stage, kind, 0.0, 0.0, tolerance, note)
    one, other = one.astype(np.float64), other.astype(np.float64)
    absolute = float(np.abs(one - other).max())
    return ParityRow(stage, kind, absolute, absolute / max(float(np.abs(one).max()), scale), tolerance, note)


def _state_rows(one: ParityModel, two: ParityModel) -> Iterator[ParityRow]:
    """Yield a row if only one has a training state, which is then left out of everything else."""
    if one.has_state != two.has_state:
        yield ParityRow(
            "training state", "settings", np.inf, np.inf, 0.0, f"only in the {('second', 'first')[one.has_state]}"
        )
        for model in (one, two):
            model.model.has_momentum = False


def _value_rows(
    one: ParityModel, two: ParityModel, first: Arrays, second: Arrays, exact: ParityModel | None, tolerance: float
) -> Iterator[ParityRow]:
    """Yield every stage. If `exact`, the first model in float32, shows larger rounding, twice that is allowed."""
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
    """Yield a row for each weight that differs, with a guess at the reason, or one for all if none does."""
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
    """Yield a row for each parameter, relative to the largest gradient of all, as some are nothing but rounding."""
    largest = _largest(one)
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            zero = not np.any(one.get(name, other.get(name)))
            yield ParityRow(name, "gradients", 0.0, 0.0 if zero else np.inf, GRADIENT_TOLERANCE, "only in one")
            continue
        absolute = float(np.abs(one[name] - other[name]).max())
        yield ParityRow(name, "gradients", absolute, absolute / max(largest, 1e-30), GRADIENT_TOLERANCE)


def _largest(gradients: Arrays) -> float:
    return max((float(np.abs(gradient).max()) for gradient in gradients.values()), default=1.0)


def _step_rows(one: ParityModel, two: ParityModel, largest: float, tolerance: float) -> Iterator[ParityRow]:
    """Yield a row for the weights and one for the training state, if there is any.

    A bias that begins at 0 is nothing but its step, and that nothing but rounding where its true gradient is 0. So a
    weight may differ by what its gradient may, which is relative to the `largest` of all, times the learning rate.
    """
    scale = LEARNING_RATE * largest * GRADIENT_TOLERANCE / tolerance
    for label, wanted in (("weights", False), ("training state", True)):
        table = [row for row in one.model.table() if row.part.state == wanted]
        if not table:
            continue
        rows = [
            _row(row.name, "values", one.parameter(row), two.parameter(row), tolerance, scale=scale) for row in table
        ]
        worst = max(rows, key=lambda row: row.relative)
        note = f"worst: {worst.stage}"
        yield ParityRow(f"{label} after a step", "values", worst.absolute, worst.relative, tolerance, note)
