"""What a run measures on data that it is not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from blip_core.datasets import Batches, Dataset
from blip_core.training.engine import Engine, Micro, loss_count
from blip_core.training.schedules import negative_noise
from blip_core.training.settings import Settings
from blip_core.training.start import CONTRASTIVE, Start

METRICS: dict[str, tuple[str, str]] = {
    "caption": ("evaluate_captions", "cider"),
    "vqa": ("evaluate_answers", "accuracy"),
    "retrieval": ("evaluate_retrieval", "mean_recall"),
    "nlvr": ("evaluate_nlvr", "accuracy"),
}
"""For each task the function of `blip_core.evaluation`, and the metric by which the best epoch is found."""


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
        least = max(devices, 2) if start.task in CONTRASTIVE else devices
        if len(dataset) < least:
            raise ValueError(f"{len(dataset)} examples to validate on are too few, at least {least} are needed.")
        whole = start.task in CONTRASTIVE or devices > 1
        size = min(settings.batch_size, len(dataset) // devices) * engine.replicas
        self.batches = Batches(dataset, start.processor, start.task, size, training=False, drop_last=whole, **options)
        with_metrics = settings.validate_by == "metric" and start.task in METRICS
        self.by = METRICS[start.task][1] if with_metrics else "loss"

    def __call__(self) -> dict[str, float]:
        """The losses, means over all processes, and the metrics."""
        return self._losses() | (self._metrics() if self.by != "loss" else {})

    def better(self, metrics: dict[str, float], best: float | None) -> bool:
        """Whether these are better than the best so far."""
        return best is None or (metrics[self.by] < best if self.by == "loss" else metrics[self.by] > best)

    def _metrics(self) -> dict[str, float]:
        from blip_core import evaluation

        engine = self.engine
        options: dict[str, Any] = {"batch_size": self.settings.batch_size, "background": self.settings.background}
        evaluate = getattr(evaluation, METRICS[self.task][0])
        processes = evaluation.Processes(engine.rank, engine.processes, engine.exchange)
        return evaluate(engine.whole(), self.start.processor, self.dataset, processes=processes, **options).metrics

    def _losses(self) -> dict[str, float]:
        sums: dict[str, float] = {"count": 0.0}
        for number, batch in enumerate(self.batches.epoch(0)):
            noise = None
            if self.task in CONTRASTIVE:
                size, rank = len(batch.examples), self.engine.rank
                columns = negative_noise(self.settings.seed, number, size * self.engine.processes)
                noise = columns[:, rank * size : (rank + 1) * size]
                ids = batch.inputs.get("image_ids")
                if ids is not None and self.engine.processes == 1 and len(np.unique(ids)) < 2:
                    continue  # nothing to compare with
            count = loss_count(batch.inputs, self.task)
            losses = self.engine.evaluate(Micro(batch.inputs, count, noise), self.settings.alpha)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
            sums["count"] += count
        sums = self.engine.mean(sums)
        whole = sums.pop("count")
        if not whole:
            raise ValueError("No batch to validate on has two pictures, which contrastive losses need; give others.")
        return {name: value / whole for name, value in sums.items()}
