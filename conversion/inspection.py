"""Saying what a checkpoint holds: its head, sizes, parameters and types, from headers alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blip_core.checkpoints import Checkpoint, open_checkpoint
from blip_core.checkpoints.exported import Export, read_export
from blip_core.checkpoints.loading import find_head, read_config
from blip_core.config import BlipConfig
from blip_core.files import read_json
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.matching import compare, known, label_tensors
from blip_core.parameters.models import parameters


@dataclass(frozen=True)
class CheckpointReport:
    """What `inspect_checkpoint` found.

    Attributes:
        path: The weight file, or the index of its shards.
        format: A name of `FORMATS`.
        head: The class of the model; None if it is no BLIP.
        config: The configuration; None if there is none and the tensors do not tell. `missing` and `misshapen` are
            then empty.
        tensors: The number of tensors.
        bytes: Their size.
        parameters: Elements by part of the model.
        others: Elements that are no parameters of the model, by kind: tied copies, buffers, parts of other models.
        dtypes: Elements by type.
        missing: Names of tensors, and labels of parts that are missing as a whole.
        unexpected: Names of tensors that no BLIP has.
        misshapen: Names and shapes of tensors with another shape than the configuration says.
        duplicate: Labels of parts that are there twice.
        adapter: What the adapter upon it is: its kind, path, task_type, rank, the modules that it changes (targets),
            the tensors that it replaces, and how many it has; None for a checkpoint without one.
        export: What the export is that it belongs to: its form, the type of its weights, whether pictures may be of any
            size, and the file of each part; None for a checkpoint by itself.
    """

    path: str
    format: str
    head: str | None
    config: dict[str, Any] | None
    tensors: int
    bytes: int
    parameters: dict[str, int]
    others: dict[str, int]
    dtypes: dict[str, int]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    adapter: dict[str, Any] | None = None
    export: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        """The number of elements of the model's parameters."""
        return sum(self.parameters.values())

    @property
    def complete(self) -> bool:
        """Whether the checkpoint holds a whole BLIP model, and nothing that does not belong to it."""
        return self.head is not None and not (self.missing or self.unexpected or self.misshapen or self.duplicate)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dictionary."""
        return {**asdict(self), "total": self.total, "complete": self.complete}


def inspect_checkpoint(
    name_or_path: str | Path,
    *,
    config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
    head: str | None = None,
    revision: str | None = None,
    base_model: str | Path | None = None,
) -> CheckpointReport:
    """Say what a checkpoint of any format holds. Only headers are read, and no framework is needed.

    Args:
        name_or_path: A folder, a weight file or a Hub repository.
        config: Replaces or completes the checkpoint's configuration, as in `convert`.
        head: The class to compare with, such as "BlipForQuestionAnswering", in place of the one found.
        revision: Branch, tag or commit of the Hub repository.
        base_model: The base of an adapter, where it is not where the adapter says.

    Returns:
        The report.

    Raises:
        OSError: There is nothing to read.
        ValueError: The file is damaged, or `head` is unknown.

    Example:
        >>> from blip_core.hub import SHIPPED
        >>> inspect_checkpoint(SHIPPED).head
        'BlipForPreTraining'
    """
    try:
        checkpoint = open_checkpoint(name_or_path, revision, base_model)
    except FileNotFoundError:
        if (export := read_export(Path(name_or_path))) is None:
            raise
        return _graphs_alone(export)
    head = head or find_head(checkpoint)
    if head is not None and head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}.")
    counts = {name: math.prod(shape) for name, shape in checkpoint.shapes.items()}
    labels = label_tensors(head, counts) if head else dict.fromkeys(counts, "unknown")
    wanted = {part.label for part in HEADS[head].parts} if head else set()
    by_label: Counter[str] = Counter()
    by_dtype: Counter[str] = Counter()
    for name, count in counts.items():
        by_label[labels[name]] += count
        by_dtype[checkpoint.dtypes[name].name] += count
    found, problems = _problems(head, checkpoint, config)
    return CheckpointReport(
        path=str(checkpoint.path),
        format=checkpoint.format,
        head=head,
        config=found.to_dict() if found else None,
        tensors=len(counts),
        bytes=sum(counts[name] * checkpoint.dtypes[name].itemsize for name in counts),
        parameters={label: count for label, count in by_label.items() if label in wanted},
        others={label: count for label, count in by_label.items() if label not in wanted},
        dtypes=dict(by_dtype),
        adapter=checkpoint.adapter,
        export=_export(read_export(checkpoint.path.parent)),
        **problems,
    )


def _graphs_alone(export: Export) -> CheckpointReport:
    """Report on an export whose weights are no checkpoint: what its configuration says of them."""
    config = HEADS[export.head].config.from_dict(read_json(export.folder / "config.json"))
    rows, counts = parameters(export.head, config), Counter[str]()
    for row in rows:
        counts[row.part.label] += math.prod(row.shape)
    return CheckpointReport(
        path=str(export.folder / "export.json"),
        format=export.form,
        head=export.head,
        config=config.to_dict(),
        tensors=len(rows),
        bytes=export.bytes,
        parameters=dict(counts),
        others={},
        dtypes={export.weights: sum(counts.values())},
        export=_export(export),
    )


def _export(export: Export | None) -> dict[str, Any] | None:
    if export is None:
        return None
    parts = {part: export.file(part).name for part in export.parts}  # refuses an export that lacks one
    return {"form": export.form, "weights": export.weights, "free_size": export.free_size, "parts": parts}


def _problems(
    head: str | None, checkpoint: Checkpoint, config: AnyConfig | Mapping[str, Any] | str | Path | None
) -> tuple[AnyConfig | None, dict[str, list[str]]]:
    strange = {"unexpected": [name for name in checkpoint.shapes if not known(name)]}
    if head is None:
        return None, strange
    try:
        found = read_config(head, checkpoint, config)
    except FileNotFoundError:
        return None, strange
    result = compare(head, found, checkpoint.shapes, with_state=isinstance(found, BlipConfig))
    problems = {kind: sorted(names) for kind, names in result.problems.items()}
    whole = [f"{label} (all of it)" for label in result.new_parts]
    return found, {**problems, "missing": [*whole, *problems.get("missing", [])]}
