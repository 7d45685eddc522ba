"""What is changed at random in a picture that is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in a picture; the defaults are the original's, for all but pre-training."""

    crop_scale: tuple[float, float] | None = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: tuple[int, int] | None = (2, 5)

    @classmethod
    def original(cls, task: str) -> Self:
        """The original's for a task: pre-training crops from a fifth of the picture on, the others from a half."""
        return cls(crop_scale=(0.2, 1.0) if task == "pretrain" else (0.5, 1.0))
