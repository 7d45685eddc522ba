"""LoRA: each linear layer of the transformers gets a change of low rank, B A, which is trained while the rest stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from blip_core.checkpoints import adapters
from blip_core.checkpoints.safetensors_file import read
from blip_core.parameters.heads import AnyConfig
from blip_core.parameters.initial_values import initial_values
from blip_core.parameters.models import Parameter
from blip_core.training.freezing import is_frozen

SCALE = 2.0
"""What the product of the factors is multiplied with: `lora_alpha` over the rank."""
A, B = ".lora_A.weight", ".lora_B.weight"


def lora_rows(table: Sequence[Parameter], rank: int, freeze: str = "none") -> list[Parameter]:
    """Return the factors of a model as rows: A (rank, in), normal at first, and B (out, rank), zero at first.

    Args:
        table: The rows of the model.
        rank: That of the changes; 0 for none.
        freeze: As the setting; what is frozen gets no factors.
    """
    rows = []
    for row in table if rank else ():
        if row.layer is None or row.row.layout != "linear" or row.part.state or is_frozen(row, freeze):
            continue
        out, into = row.shape
        name = row.name.removesuffix(".weight")
        rows.append(replace(row, name=name + A, shape=(rank, into), row=replace(row.row, init="normal")))
        rows.append(replace(row, name=name + B, shape=(out, rank), row=replace(row.row, init="zeros")))
    return rows


def changed_layers(rows: Sequence[Parameter]) -> list[str]:
    """Return the names of the layers that factors belong to."""
    return [row.name.removesuffix(A) for row in rows if row.name.endswith(A)]


def lora_values(
    rows: Sequence[Parameter], config: AnyConfig, seed: int, folder: Path | None
) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Yield the factors' values: those of an adapter's folder, or without one their initial values from a seed."""
    if folder is None:
        yield from initial_values(rows, config, seed)
        return
    stored = read(folder / adapters.WEIGHTS)
    for row in rows:
        yield row, np.array(stored[adapters.PREFIX + row.name])
