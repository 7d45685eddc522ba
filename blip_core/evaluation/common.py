"""What the evaluations share: their result, the examples that count, and batches of their pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_core.datasets import Batch, Batches, Dataset, Example
from blip_core.jobs.read_ahead import in_one_line, read_batches
from blip_core.processing.processor import BlipProcessor
from blip_core.processing.video import read_frames
from blip_core.tasks import get_task

Progress = Callable[[int], None]
"""Called with the number of pictures just processed."""


@dataclass(frozen=True)
class Processes:
    """The processes that evaluate a data set together, each with the same model; every one gets the whole result.

    Args:
        rank: The number of this process, from 0.
        count: How many there are.
        exchange: Takes the bytes of this process and returns those of all, in their order; all must call it alike.
    """

    rank: int = 0
    count: int = 1
    exchange: Callable[[bytes], list[bytes]] = lambda own: [own]

    def own(self, items: int) -> slice:
        """Return this process's contiguous slice of `items`."""
        first, last = (items * rank // self.count for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def join(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of all processes, in order; JSON carries them, so tuples become lists."""
        if self.count == 1:
            return list(items)
        return [item for part in self.exchange(json.dumps(list(items)).encode()) for item in json.loads(part)]

    def join_arrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Return the arrays (n, ...) of all processes; n may differ between them."""
        if self.count == 1:
            return [array]
        parts = self.exchange(np.ascontiguousarray(array).tobytes())
        return [np.frombuffer(part, array.dtype).reshape(-1, *array.shape[1:]) for part in parts]


ALONE = Processes()
"""A single process, which evaluates everything."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        task: The name of the task.
        metrics: By name, each from 0 to 1 but for CIDEr (0 to 10) and ranks (from 1); none where nothing is labelled.
        counted: How many examples, or pictures and texts, they are computed over.
        entries: The results one by one.
        problems: The keys of the examples that were left out, and why.
    """

    task: str
    metrics: dict[str, float]
    counted: dict[str, int]
    entries: list[dict[str, Any]]
    problems: list[tuple[str, str]]


class Run:
    """One evaluation in progress. Its keywords are common to all `evaluate_...` functions.

    Args:
        task: The task that the data set must be opened for.
        processor: Prepares the pictures.
        dataset: The examples; those without a target to compare with become problems.
        unlabelled: Keep those, too: they are predicted and count in no metric.
        batch_size: How many pictures the model gets at once.
        background: The colour behind transparent pictures, as in `Batches`.
        progress: Called with the number of pictures just processed.
        processes: The processes that evaluate together.

    Attributes:
        examples: The examples that can be evaluated.
        problems: The keys of the others, and why.

    Raises:
        ValueError: For a data set of another task, and where no example can be evaluated.
    """

    def __init__(
        self,
        task: str,
        processor: BlipProcessor,
        dataset: Dataset,
        *,
        unlabelled: bool = False,
        batch_size: int = 8,
        background: str | None = None,
        progress: Progress | None = None,
        processes: Processes = ALONE,
    ):
        if dataset.task != task:
            raise ValueError(f"The data set was opened for {dataset.task}, not for {task}.")
        self.task, self.processor, self.batch_size, self.background = task, processor, batch_size, background
        self.progress, self.processes = progress or (lambda count: None), processes
        self.dataset, self.problems, self.examples = dataset, list(dataset.problems), []
        for example in dataset:
            if not unlabelled and (missing := get_task(task).lacks(example)):
                self.problems.append((example.key, f"has no {missing} to compare with"))
            else:
                self.examples.append(example)
        if not self.examples:
            reason = f"; the first: {': '.join(self.problems[0])}" if self.problems else ""
            raise ValueError(f"The data set has no example that can be evaluated{reason}.")

    @classmethod
    def split(cls, task: str, processor: BlipProcessor, dataset: Dataset, options: dict[str, Any]) -> Run:
        """Begin with the keywords of a run, which are taken out of `options`; the rest are those of `generate`."""
        common = {name: options.pop(name) for name in COMMON if name in options}
        return cls(task, processor, dataset, **common)

    def groups(self) -> dict[str, list[Example]]:
        """Return the examples of each picture by the key of the first, see `by_picture`."""
        return {group[0].key: group for group in by_picture(self.examples)}

    def batches(
        self, examples: Sequence[Example], frames: int = 1, processor: BlipProcessor | None = None
    ) -> Iterator[Batch]:
        """Yield the pictures of this process's share of the examples in batches, read ahead by threads.

        Pictures that cannot be read become problems, in all processes.

        Args:
            examples: Those whose pictures are wanted.
            frames: With 2 or more, `pixel_values` of a batch is a list of the frames (n, 3, height, width) of each
                video: so many, spread evenly, or all of a shorter one; a still picture is its only frame.
            processor: Prepares the pictures instead of the run's own.

        Raises:
            ValueError: Where no process can read any.
        """
        prepare = processor or self.processor

        def pictures(dataset: Dataset) -> Iterator[Batch]:
            how: dict[str, Any] = {"training": False, "background": self.background}
            return Batches(dataset, prepare, self.task, self.batch_size, **how).epoch(0)

        def pixels(example: Example) -> np.ndarray:
            return read_frames(prepare, example.images[0].path, frames)

        def videos(dataset: Dataset) -> Iterator[Batch]:
            for batch in read_batches(dataset, self.batch_size, pixels):
                for example, found in batch:
                    if isinstance(found, Exception):
                        dataset.report(example.key, in_one_line(found))
                good = [(example, found) for example, found in batch if not isinstance(found, Exception)]
                if good:
                    inputs: dict[str, Any] = {"pixel_values": [found for _, found in good]}
                    yield Batch(inputs, tuple(example for example, _ in good))

        return self._watched(examples, videos if frames > 1 else pictures)

    def _watched(self, examples: Sequence[Example], read: Callable[[Dataset], Iterator[Batch]]) -> Iterator[Batch]:
        """Yield what `read` makes of this process's share, with progress; collects problems of all processes."""
        dataset = Dataset(self.task, examples[self.processes.own(len(examples))])
        done = 0
        if len(dataset):
            for batch in read(dataset):
                yield batch
                for key, reason in dataset.problems:  # for whoever watches
                    self.dataset.report(key, reason)
                self.progress(len(batch.examples))
                done += len(batch.examples)
            if done < len(dataset):
                self.progress(len(dataset) - done)
        found = [(key, reason) for key, reason in self.processes.join(dataset.problems)]
        self.problems.extend(found)
        if not sum(self.processes.join([done])):
            raise ValueError(f"Not one picture can be read; the first: {': '.join(found[0])}.")

    def result(self, metrics: dict[str, float], counted: dict[str, int], entries: list[dict[str, Any]]) -> Evaluation:
        """Return the result; `entries` are those of all processes."""
        return Evaluation(self.task, metrics, counted, entries, self.problems)


COMMON = ("unlabelled", "batch_size", "background", "progress", "processes")
"""The keywords of `Run` that every evaluation takes."""


def by_picture(examples: Iterable[Example]) -> list[list[Example]]:
    """Put examples of the same picture together, in the order of the first of each."""
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.images if example.image_id is None else example.image_id, []).append(example)
    return list(groups.values())


def as_items(pixels: Any) -> Any:
    """The pictures (B, 3, height, width) or videos of a batch as items of frames, (n, 3, height, width) each."""
    return pixels[:, None] if isinstance(pixels, np.ndarray) else pixels
