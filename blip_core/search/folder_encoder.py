"""Encode the pictures and videos of a folder; threads read ahead of the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_core.inference.matcher import Matcher
from blip_core.jobs.read_ahead import read_batches
from blip_core.processing.video import FRAMES, read_frames

Encoded = tuple[np.ndarray, int]
"""A feature, (width,), and the number of frames of its video; 0 for a picture."""


@dataclass(frozen=True)
class FolderEncoder:
    """Encodes files by names relative to a folder, `batch_size` frames at a time."""

    matcher: Matcher
    folder: str
    frames: int = FRAMES
    batch_size: int = 8

    def read(self, name: str | os.PathLike[str]) -> np.ndarray:
        """Read and prepare a picture or frames of a video, float32 (n, 3, height, width); raises as `sample_frames`."""
        return read_frames(self.matcher.processor, os.path.join(self.folder, name), self.frames)

    def features(self, names: Iterable[str]) -> Iterator[list[tuple[str, Encoded | Exception]]]:
        """Yield, batch by batch, each name with its feature or its error."""

        def work(items: Sequence[np.ndarray]) -> list[Encoded]:
            counts = [self.frames if len(item) > 1 else 0 for item in items]
            return list(zip(self.matcher.item_features(items, self.batch_size), counts, strict=True))

        return self._run(names, work)

    def states(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray | Exception]]:
        """Yield each name with its image embeddings (1, image tokens, vision width) or its error."""
        for batch in self._run(names, lambda items: self.matcher.item_states(items, self.batch_size)):
            yield from batch

    def _run(self, names: Iterable[str], work: Callable[[list[np.ndarray]], Sequence[Any]]) -> Iterator[list[Any]]:
        for batch in read_batches(names, self.batch_size, self.read):
            good = [item for _, item in batch if not isinstance(item, Exception)]
            results = iter(work(good) if good else [])
            yield [(name, item if isinstance(item, Exception) else next(results)) for name, item in batch]
