"""What a run measures on validation data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from blip_core.datasets import Batches, Dataset
from blip_core.training.protocol import Trainer, make_micro_batch
from blip_core.training.settings import Settings
from blip_core.training.start import Start


class Validation:
    """The mean losses of validation data, and the metrics of its task.

    Contrastive losses, and losses of several processes, need whole batches: an incomplete last batch is not used.
    Metrics are those of `blip evaluate` over all of the data, of which each process evaluates its share; with
    `validate_by="loss"` there are losses alone. `by` names the number that finds the best epoch.
    """

    def __init__(self, trainer: Trainer, start: Start, settings: Settings, dataset: Dataset, **options: Any):
        self.trainer, self.settings, self.start, self.dataset = trainer, settings, start, dataset
        contrastive, devices = start.task.contrastive, trainer.processes * trainer.replicas
        least = max(devices, 2) if contrastive else devices
        if len(dataset) < least:
            raise ValueError(f"{len(dataset)} examples to validate on are too few, at least {least} are needed.")
        size = min(settings.batch_size, len(dataset) // devices) * trainer.replicas
        options |= {"training": False, "drop_last": contrastive or devices > 1}
        self.batches = Batches(dataset, start.processor, start.task.name, size, **options)
        self.evaluate = start.task.evaluate if settings.validate_by == "metric" else None
        self.by = start.task.metric if self.evaluate else "loss"

    def __call__(self) -> dict[str, float]:
        """Return the losses and metrics, over all processes."""
        return self._losses() | (self._metrics(self.evaluate) if self.evaluate else {})

    def better(self, metrics: dict[str, float], best: float | None) -> bool:
        """Tell whether these metrics are better than the best so far."""
        return best is None or (metrics[self.by] < best if self.by == "loss" else metrics[self.by] > best)

    def _metrics(self, evaluate: Callable[..., Any]) -> dict[str, float]:
        from blip_core.evaluation import Processes

        found = evaluate(
            self.trainer.inference_model(),
            self.start.processor,
            self.dataset,
            batch_size=self.settings.batch_size,
            background=self.settings.background,
            processes=Processes(self.trainer.rank, self.trainer.processes, self.trainer.exchange),
        )
        metrics: dict[str, float] = found.metrics
        return metrics

    def _losses(self) -> dict[str, float]:
        sums: dict[str, float] = {"count": 0.0}
        for number, batch in enumerate(self.batches.epoch(0)):
            ids = batch.inputs.get("image_ids") if self.start.task.contrastive else None
            if ids is not None and self.trainer.processes == 1 and len(np.unique(ids)) < 2:
                continue  # a single picture has no negatives
            micro = make_micro_batch(batch.inputs, self.start.task, self.trainer, self.settings.seed, number)
            for name, value in self.trainer.evaluate(micro, self.settings.alpha).items():
                sums[name] = sums.get(name, 0.0) + value * micro.count
            sums["count"] += micro.count
        sums = self.trainer.mean(sums)
        whole = sums.pop("count")
        if not whole:
            raise ValueError("No batch to validate on has two pictures, which contrastive losses need; give others.")
        return {name: value / whole for name, value in sums.items()}
