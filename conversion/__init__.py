"""Checkpoints of every format that BLIP was published in: inspection, conversion, and parity of the engines."""

from conversion.converter import ConversionReport, convert
from conversion.inspection import CheckpointReport, inspect_checkpoint
from conversion.parity import ParityReport, ParityRow, check_parity

__all__ = [
    "CheckpointReport",
    "ConversionReport",
    "ParityReport",
    "ParityRow",
    "check_parity",
    "convert",
    "inspect_checkpoint",
]
