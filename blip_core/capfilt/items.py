"""The input of CapFilt: one item per picture, before duplicates are removed."""

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
from blip_core.stores import is_address

Line = dict[str, Any]
"""A JSON line of the output."""


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and its web captions, from one example or several; `number` counts from 0 in the input.

    The picture's path is absolute, so that workers in other folders find it.
    """

    number: int
    key: str
    picture: Picture
    texts: tuple[str, ...]


class Items(Sequence[Item]):
    """A lazy sequence of items; each is built on access. Pickled, for another process, it becomes a list.

    `order` holds the indices of examples, picture by picture, and `starts` where those of each picture begin and end;
    `pictures` are the pictures that this sequence has.
    """

    def __init__(self, dataset: Dataset, order: np.ndarray, starts: np.ndarray, pictures: range):
        self._dataset, self._order, self._starts, self._pictures = dataset, order, starts, pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index: int | slice) -> Item | Items:
        number = self._pictures[index]
        if isinstance(number, range):
            return Items(self._dataset, self._order, self._starts, number)
        examples = [self._dataset[at] for at in self._order[self._starts[number] : self._starts[number + 1]].tolist()]
        picture = examples[0].images[0]
        path = picture.path if is_address(picture.path) else os.path.abspath(picture.path)
        there = picture if path == picture.path else replace(picture, path=path)
        return Item(number, examples[0].key, there, tuple(text for example in examples for text in example.texts))

    def __reduce__(self) -> Any:
        return list, (list(self),)


def find_items(dataset: Dataset) -> tuple[Items, list[Line]]:
    """Return the captioned pictures, in order of first appearance, and the unusable entries."""
    unusable = [{"key": key, "reason": "unusable", "detail": detail} for key, detail in dataset.problems]
    indices = array("q")

    def pictures() -> Iterator[Picture]:
        for index, example in enumerate(dataset):
            if example.texts:
                indices.append(index)
                yield example.images[0]
            else:
                unusable.append({"key": example.key, "reason": "unusable", "detail": "has no caption"})

    order, starts = group(pictures())
    return Items(dataset, np.array(indices)[order], starts, range(len(starts) - 1)), unusable


def fingerprint(items: Iterable[Item]) -> str:
    """Return a hash of the input: keys, picture names and texts, not the bytes of pictures."""
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        digest.update(repr((item.key, item.picture.name, item.texts)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
