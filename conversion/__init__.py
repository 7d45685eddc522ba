"""Checkpoints in every format that BLIP was published in: looking into them and converting them."""

from conversion.converter import ConversionReport, convert
from conversion.inspection import CheckpointReport, inspect_checkpoint

__all__ = ["CheckpointReport", "ConversionReport", "convert", "inspect_checkpoint"]
