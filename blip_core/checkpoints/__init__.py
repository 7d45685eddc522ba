"""Checkpoints of every format: opening, loading into a model, and writing.

`open_checkpoint` is the only door. `FORMATS` in `formats.py` lists the formats; each names its reader and writer.
"""

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.formats import FORMATS, Format, open_checkpoint, register

__all__ = ["FORMATS", "Checkpoint", "Format", "open_checkpoint", "register"]
