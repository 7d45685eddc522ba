"""What the evaluations share: their result, which examples count, pictures in batches, a model that does not train."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_core.datasets import Batch, Batches, Dataset, Example
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import get_task

Progress = Callable[[int], None]
"""Called with how many more pictures are dealt with."""


@dataclass(frozen=True)
class Processes:
    """The processes that evaluate a data set together, `count` with the same model each; this one has number `rank`.

    `exchange` gives the bytes of all processes, in their order, for those of this one; all must call it alike. Results
    are joined by it, so that each process has the whole result.
    """

    rank: int = 0
    count: int = 1
    exchange: Callable[[bytes], list[bytes]] = lambda own: [own]

    def own(self, items: int) -> slice:
        """Which of so many items are this process's: neighbours, so that those of all, joined, are in order again."""
        first, last = (items * rank // self.count for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def join(self, items: Sequence[Any]) -> list[Any]:
        """The items of all processes, which JSON can hold (tuples become lists), one behind the other."""
        if self.count == 1:
            return list(items)
        return [item for part in self.exchange(json.dumps(list(items)).encode()) for item in json.loads(part)]

    def join_arrays(self, array: np.ndarray) -> list[np.ndarray]:
        """The arrays (n, ...) of all processes, of which only n may differ."""
        if self.count == 1:
            return [array]
        parts = self.exchange(np.ascontiguousarray(array).tobytes())
        return [np.frombuffer(part, array.dtype).reshape(-1, *array.shape[1:]) for part in parts]


ALONE = Processes()
"""A single process, which evaluates everything."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    `metrics` by name, 0 to 1 each but CIDEr (0 to 10); `counted` says over how many examples, or pictures and texts,
    they are; `entries` holds the results one by one; `problems` what was left out, by the examples' keys, and why.
    """

    task: str
    metrics: dict[str, float]
    counted: dict[str, int]
    entries: list[dict[str, Any]]
    problems: list[tuple[str, str]]


def complete(dataset: Dataset, task: str, problems: list[tuple[str, str]]) -> list[Example]:
    """The examples that have what a result is compared with; the others become problems.

    Raises `ValueError` for a data set of another task, and where no example is left.
    """
    if dataset.task != task:
        raise ValueError(f"The data set was opened for {dataset.task}, not for {task}.")
    found = []
    for example in dataset:
        if missing := get_task(task).lacks(example):
            problems.append((example.key, f"has not got {missing} to compare with"))
        else:
            found.append(example)
    if not found:
        reason = f"; the first: {': '.join(problems[0])}" if problems else ""
        raise ValueError(f"The data set has no example that can be evaluated{reason}.")
    return found


def by_picture(examples: Sequence[Example]) -> list[list[Example]]:
    """Put examples of the same picture together, in the order of the first of each."""
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.images if example.image_id is None else example.image_id, []).append(example)
    return list(groups.values())


def read_pictures(
    examples: Sequence[Example],
    processor: BlipProcessor,
    task: str,
    batch_size: int,
    background: str | None,
    problems: list[tuple[str, str]],
    progress: Progress | None,
    processes: Processes,
) -> Iterator[Batch]:
    """Yield the pictures of this process's examples in batches, read ahead by threads.

    Those that cannot be read become problems, in all processes. Raises `ValueError` where none can be read in any.
    """
    dataset = Dataset(task, examples[processes.own(len(examples))])
    done = 0
    if len(dataset):
        batches = Batches(dataset, processor, task, batch_size, training=False, background=background)
        for batch in batches.epoch(0):
            yield batch
            if progress:
                progress(len(batch.examples))
            done += len(batch.examples)
        if progress and done < len(dataset):
            progress(len(dataset) - done)
    found = [(key, reason) for key, reason in processes.join(dataset.problems)]
    problems.extend(found)
    if not sum(processes.join([done])):
        raise ValueError(f"Not one picture can be read; the first: {': '.join(found[0])}.")
