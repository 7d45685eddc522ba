"""What a checkpoint holds: its head, sizes, parameters and types, without a framework and without reading a tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.formats import open_any
from blip_core.checkpoints.loading import read_config
from blip_core.config import BlipConfig
from blip_core.files import read_json
from blip_core.parameters.matching import compare, find_model, known, label_tensors
from blip_core.parameters.models import MODELS, AnyConfig


@dataclass(frozen=True)
class CheckpointReport:
    """What `inspect_checkpoint` found.

    `parameters` counts numbers by part of the model, `others` those that are no parameter of it (tied copies, buffers,
    parts of other models); `dtypes` counts numbers by type. `missing` has the names of tensors, and the labels of
    parts that are missing as a whole. `config` is None where the file comes without one and its names do not tell;
    what is missing cannot be said then, nor what is misshapen.
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

    @property
    def total(self) -> int:
        """The number of the model's parameters."""
        return sum(self.parameters.values())

    @property
    def complete(self) -> bool:
        """Whether the checkpoint holds the whole of a BLIP model and nothing that does not belong."""
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
) -> CheckpointReport:
    """Look at a checkpoint of any format: a folder, a file or a Hub repository.

    `config` and `head` (such as "BlipForQuestionAnswering") replace what the checkpoint says or lacks. Nothing but
    headers is read. Raises `OSError` where there is nothing to read and `ValueError` for a damaged file.
    """
    checkpoint = open_any(name_or_path, revision=revision, values=False)
    head = head or find_head(checkpoint)
    if head is not None and head not in MODELS:
        raise ValueError(f"head must be one of {', '.join(MODELS)}; got {head!r}.")
    counts = {name: math.prod(shape) for name, shape in checkpoint.shapes.items()}
    labels = label_tensors(head, counts) if head else dict.fromkeys(counts, "unknown")
    wanted = {part.label for part in MODELS.get(head or "", ())}
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
        **problems,
    )


def find_head(checkpoint: Checkpoint) -> str | None:
    """The model class of a checkpoint: what `config.json` says where it holds that, else what its tensors are of."""
    path = checkpoint.path.parent / "config.json"
    said = read_json(path).get("architectures") if path.is_file() else None
    name = str(said[0]).removeprefix("TF") if isinstance(said, list) and said else ""
    return name if name in MODELS else find_model(checkpoint.shapes)


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
