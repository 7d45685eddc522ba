"""What a run measures on data that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from blip_core.datasets import Batches, Dataset
from blip_core.training.engine import Engine, Micro
from blip_core.training.schedules import negative_noise
from blip_core.training.settings import Settings
from blip_core.training.start import Start


class Validation:
    """The losses of validation data, the mean over all of it, and the metrics of its task.

    Batches of contrastive losses, and those of several processes, are whole: what is left at the end is not used.
    Metrics are over all of the data, of which each process evaluates its share; where `validate_by` is "loss", there
    are losses alone. `by` is the name of the number that finds the best epoch.
    """

    def __init__(self, engine: Engine, start: Start, settings: Settings, dataset: Dataset, **options: Any):
        self.engine, self.settings, self.start, self.dataset = engine, settings, start, dataset
        self.task = start.task
        devices = engine.processes * engine.replicas
        least = max(devices, 2) if start.task.contrastive else devices
        if len(dataset) < least:
            raise ValueError(f"{len(dataset)} examples to validate on are too few, at least {least} are needed.")
        whole = start.task.contrastive or devices > 1
        size = min(settings.batch_size, len(dataset) // devices) * engine.replicas
        self.batches = Batches(
            dataset, start.processor, start.task.name, size, training=False, drop_last=whole, **options
        )
        self.evaluate = start.task.evaluate if settings.validate_by == "metric" else None
        self.by = start.task.metric if self.evaluate else "loss"

    def __call__(self) -> dict[str, float]:
        """The losses, means over all processes, and the metrics."""
        return self._losses() | (self._metrics(self.evaluate) if self.evaluate else {})

    def better(self, metrics: dict[str, float], best: float | None) -> bool:
        """Whether these are better than the best so far."""
        return best is None or (metrics[self.by] < best if self.by == "loss" else metrics[self.by] > best)

    def _metrics(self, evaluate: Callable[..., Any]) -> dict[str, float]:
        from blip_core.evaluation import Processes

        engine = self.engine
        options: dict[str, Any] = {"batch_size": self.settings.batch_size, "background": self.settings.background}
        processes = Processes(engine.rank, engine.processes, engine.exchange)
        found = evaluate(engine.whole(), self.start.processor, self.dataset, processes=processes, **options)
        metrics: dict[str, float] = found.metrics
        return metrics

    def _losses(self) -> dict[str, float]:
        sums: dict[str, float] = {"count": 0.0}
        for number, batch in enumerate(self.batches.epoch(0)):
            noise = None
            if self.task.contrastive:
                size, rank = len(batch.examples), self.engine.rank
                columns = negative_noise(self.settings.seed, number, size * self.engine.processes)
                noise = columns[:, rank * size : (rank + 1) * size]
                ids = batch.inputs.get("image_ids")
                if ids is not None and self.engine.processes == 1 and len(np.unique(ids)) < 2:
                    continue  # nothing to compare with
            count = self.task.loss_count(batch.inputs)
            losses = self.engine.evaluate(Micro(batch.inputs, count, noise), self.settings.alpha)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
            sums["count"] += count
        sums = self.engine.mean(sums)
        whole = sums.pop("count")
        if not whole:
            raise ValueError("No batch to validate on has two pictures, which contrastive losses need; give others.")
        return {name: value / whole for name, value in sums.items()}
