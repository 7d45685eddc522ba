"""What a run measures on validation data, and which examples it holds out for that where none are given."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Batches, Dataset, Example
from blip_core.datasets.batches import picture_of
from blip_core.tasks import Task, get_task
from blip_core.training.protocol import Trainer, make_micro_batch
from blip_core.training.settings import Settings
from blip_core.training.start import Start

MANY = 10_000
"""Examples above which words are not compared, as most of them will be common."""
MOST = 1000
"""The most pictures that are held out, and the most training examples that are measured with them."""
FEW = 10
"""Of fewer examples a loss says little, so that what is learned is measured, too."""


class Part(Sequence[Example]):
    """Some of the examples of a data set, by their indices, read when they are asked for."""

    def __init__(self, whole: Dataset, indices: Sequence[int]):
        self.whole, self.indices = whole, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.indices[index]
        return [self.whole[int(i)] for i in chosen] if isinstance(index, slice) else self.whole[int(chosen)]


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Divide a data set into what is learned, and a share of the pictures that is held out with all of their texts.

    Only pictures whose words all occur in texts of other pictures are held out: a word that only one picture has could
    not be learned without it. So nothing is held out where every picture has a word of its own, such as a name. The
    seed decides which pictures they are.

    Args:
        dataset: Opened for the task.
        share: From 0 to 0.5 of the pictures; at least one, or two where pairs are compared, at most 1,000.
        seed: Chooses them.

    Returns:
        What is learned, and what is held out, which may be empty.
    """
    task = get_task(dataset.task)
    pictures: dict[Any, list[int]] = {}
    words: dict[Any, set[str]] = {}
    for index, example in enumerate(dataset):
        if not task.lacks(example):
            key = picture_of(example)
            pictures.setdefault(key, []).append(index)
            if len(dataset) <= MANY:
                words.setdefault(key, set()).update(*(task.clean(text).split() for text in _learned(example, task)))
    least = 1 + task.contrastive
    wanted = min(max(round(share * len(pictures)), least), len(pictures) - least, MOST) if share else 0
    uses = Counter(word for found in words.values() for word in found)
    chosen: list[int] = []
    for key in sorted(pictures, key=lambda key: _chance(seed, dataset[pictures[key][0]].key)):
        if wanted > 0 and all(uses[word] > 1 for word in words.get(key, ())):
            uses.subtract(words.get(key, ()))
            chosen += pictures[key]
            wanted -= 1
    held = set(chosen)
    learned = [index for index in range(len(dataset)) if index not in held]
    whole = Dataset(dataset.task, Part(dataset, learned), dataset.problems, dataset.forms, dataset.splits)
    return whole, Dataset(dataset.task, Part(dataset, sorted(chosen)))


def together(dataset: Dataset, held_out: Dataset | None, seed: int) -> Dataset:
    """Return what is held out and up to 1,000 examples that are learned: what is measured where little is held out."""
    task = get_task(dataset.task)
    learned = [index for index, example in enumerate(dataset) if not task.lacks(example)]
    if len(learned) > MOST:
        learned = sorted(np.random.default_rng(seed).choice(learned, MOST, replace=False).tolist())
    return Dataset(dataset.task, [*(held_out or ()), *Part(dataset, learned)])


def _learned(example: Example, task: Task) -> Sequence[str]:
    """The texts that a model learns to say; none where it learns something else."""
    texts = getattr(example, task.target[0])
    return texts if isinstance(texts, tuple) else ()


def _chance(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed} held out {key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Validation:
    """The mean losses of validation data, and the metrics of its task.

    Contrastive losses, and losses of several processes, need whole batches: an incomplete last batch is not used.
    Metrics are those of `blip evaluate` over all of the data, of which each process evaluates its share; with
    `validate_by="loss"` there are losses alone. `by` names the number that finds the best epoch, or several to add.
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
        return self.losses() | (self._metrics(self.evaluate) if self.evaluate else {})

    def score(self, metrics: dict[str, float]) -> float:
        """Return the number that finds the best epoch."""
        return sum(metrics[name] for name in self.by.split("+"))

    def better(self, metrics: dict[str, float], best: float | None) -> bool:
        """Tell whether these metrics are better than the best so far."""
        score = self.score(metrics)
        return best is None or (score < best if self.by == "loss" else score > best)

    def _metrics(self, evaluate: Callable[..., Any]) -> dict[str, float]:
        from blip_core.evaluation import Processes

        found = evaluate(
            self.trainer.inference_model(),
            self.start.processor,
            self.dataset,
            batch_size=self.settings.batch_size,
            background=self.settings.background,
            **(self.settings.generation or {}),
            processes=Processes(self.trainer.rank, self.trainer.processes, self.trainer.exchange),
        )
        metrics: dict[str, float] = found.metrics
        return metrics

    def losses(self) -> dict[str, float]:
        """Return the mean losses, over all processes."""
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
