"""Data of which one part is learned in each epoch, in turn, as the original does with LAION."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Batch, Batches, Dataset, Example


class Joined(Sequence[Example]):
    """The examples of two data sets, one after the other."""

    def __init__(self, first: Dataset, second: Dataset):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        known = len(self.first)
        return self.first[place] if place < known else self.second[place - known]


def joined(dataset: Dataset, chunk: Dataset) -> Dataset:
    """Return a data set with a chunk behind it; neither is read."""
    problems = [*dataset.problems, *chunk.problems]
    return Dataset(dataset.task, Joined(dataset, chunk), problems, dataset.forms | chunk.forms, dataset.splits)


class InTurn:
    """Batches of one of several data sets in each epoch; all epochs have as many steps as that of the smallest.

    The order within a data set is that of its epoch, so that a larger one shows other examples when its turn comes
    again.
    """

    def __init__(self, parts: Sequence[Batches]):
        self.parts = parts
        smallest = parts[int(np.argmin([part.steps_per_epoch for part in parts]))]
        self.steps_per_epoch, self.examples = smallest.steps_per_epoch, smallest.examples

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, as `Batches.epoch`."""
        return self.parts[epoch % len(self.parts)].epoch(epoch, start)
