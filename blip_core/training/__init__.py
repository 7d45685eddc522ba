"""Training for every engine: settings, schedules, the loop, checkpoints, logs. See docs/training.md."""

from blip_core.training.run import TrainingResult, train
from blip_core.training.settings import Settings, read_settings

__all__ = ["Settings", "TrainingResult", "read_settings", "train"]
