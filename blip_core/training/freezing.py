"""Which weights stay as they are while others are trained."""

from __future__ import annotations

from blip_core.parameters.models import Parameter


def is_frozen(row: Parameter, freeze: str) -> bool:
    """Tell whether a weight stays as it is under a setting of `freeze`: "none", "vision" or "vision:BLOCKS".

    With a number, what lies below the first block is frozen with it.
    """
    if freeze == "none" or row.part.label != "vision encoder":
        return False
    _, _, blocks = freeze.partition(":")
    return not blocks or "embeddings." in row.name or (row.layer is not None and row.layer < int(blocks))


def check_freeze(freeze: str, blocks: int) -> None:
    """Raise `ValueError` for a setting of `freeze` that names more blocks than the vision encoder has."""
    wanted = freeze.partition(":")[2]
    if wanted and not 0 < int(wanted) <= blocks:
        raise ValueError(f"freeze must be vision, or vision:N with N from 1 to {blocks} blocks here, got {freeze!r}.")
