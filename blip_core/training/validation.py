"""What a run measures on data that it is not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from blip_core.contrastive import negative_noise
from blip_core.datasets import Batches, Dataset
from blip_core.training.engine import Engine, Micro, loss_count
from blip_core.training.loop import CONTRASTIVE
from blip_core.training.settings import Settings
from blip_core.training.start import Start


class Validation:
    """The losses of validation data, the mean over all of it.

    Batches of contrastive losses, and those of several processes, are whole: what is left at the end is not used.
    """

    def __init__(self, engine: Engine, start: Start, settings: Settings, dataset: Dataset, **options: Any):
        self.engine, self.settings, self.task = engine, settings, start.task
        share = max(1, len(dataset) // engine.processes)
        whole = start.task in CONTRASTIVE or engine.processes > 1
        size = min(settings.batch_size, share)
        self.batches = Batches(dataset, start.processor, start.task, size, training=False, drop_last=whole, **options)

    def __call__(self) -> dict[str, float]:
        """The mean losses over all processes."""
        sums: dict[str, float] = {"count": 0.0}
        for number, batch in enumerate(self.batches.epoch(0)):
            noise = None
            if self.task in CONTRASTIVE:
                size, rank = len(batch.examples), self.engine.rank
                whole = negative_noise(self.settings.seed, number, size * self.engine.processes)
                noise = whole[:, rank * size : (rank + 1) * size]
                ids = batch.inputs.get("image_ids")
                if ids is not None and self.engine.processes == 1 and len(np.unique(ids)) < 2:
                    continue  # nothing to compare with
            count = loss_count(batch.inputs, self.task)
            losses = self.engine.evaluate(Micro(batch.inputs, count, noise), self.settings.alpha)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
            sums["count"] += count
        sums = self.engine.mean(sums)
        count = sums.pop("count")
        return {name: value / count for name, value in sums.items()}
