"""The input of CapFilt, picture by picture, and what became of each before copies are looked for."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from blip_core.datasets import Dataset, Picture
from blip_core.datasets.spool import group

Line = dict[str, Any]
"""What a line of JSON in the output holds."""


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and what the web says of it, from one example or several; `number` counts from 0 in the input.

    The picture's path is absolute, so that it is the same for workers elsewhere.
    """

    number: int
    key: str
    picture: Picture
    texts: tuple[str, ...]


class Items(Sequence[Item]):
    """The pictures of a data set, or some of them, each made anew when it is asked for.

    `order` has the numbers of examples and `starts` where those of each picture begin, and end. Where they are pickled,
    for a worker elsewhere, they become a list.
    """

    def __init__(self, dataset: Dataset, order: np.ndarray, starts: np.ndarray, numbers: range):
        self._dataset, self._order, self._starts, self._numbers = dataset, order, starts, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index: int | slice) -> Item | Items:
        number = self._numbers[index]
        if isinstance(number, range):
            return Items(self._dataset, self._order, self._starts, number)
        examples = [self._dataset[at] for at in self._order[self._starts[number] : self._starts[number + 1]].tolist()]
        picture = examples[0].images[0]
        path = os.path.abspath(picture.path)
        there = picture if path == picture.path else replace(picture, path=path)
        return Item(number, examples[0].key, there, tuple(text for example in examples for text in example.texts))

    def __reduce__(self) -> Any:
        return list, (list(self),)


def find_items(dataset: Dataset) -> tuple[Items, list[Line]]:
    """The pictures with captions, each once, in the order of the first example of each, and what else there is."""
    unusable = [{"key": key, "reason": "unusable", "detail": detail} for key, detail in dataset.problems]
    numbers = array("q")

    def pictures() -> Iterator[Picture]:
        for number, example in enumerate(dataset):
            if example.texts:
                numbers.append(number)
                yield example.images[0]
            else:
                unusable.append({"key": example.key, "reason": "unusable", "detail": "has no caption"})

    order, starts = group(pictures())
    return Items(dataset, np.array(numbers)[order], starts, range(len(starts) - 1)), unusable


def fingerprint(items: Iterable[Item]) -> str:
    """A hash of what the input says, without the bytes of its pictures."""
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        digest.update(repr((item.key, item.picture.name, item.texts)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
