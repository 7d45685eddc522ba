"""The input of CapFilt, picture by picture, and what became of each before copies are looked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blip_core.datasets import Dataset, Picture

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


def find_items(dataset: Dataset) -> tuple[list[Item], list[Line]]:
    """The pictures with captions, each once, in the order of the first example of each, and what else there is."""
    unusable = [{"key": key, "reason": "unusable", "detail": detail} for key, detail in dataset.problems]
    texts: dict[Picture, list[str]] = {}
    keys: dict[Picture, str] = {}
    for example in dataset:
        if example.texts:
            keys.setdefault(example.images[0], example.key)
            texts.setdefault(example.images[0], []).extend(example.texts)
        else:
            unusable.append({"key": example.key, "reason": "unusable", "detail": "has no caption"})
    found = []
    for number, (picture, key) in enumerate(keys.items()):
        path = os.path.abspath(picture.path)
        there = picture if path == picture.path else replace(picture, path=path)
        found.append(Item(number, key, there, tuple(texts[picture])))
    return found, unusable


def fingerprint(items: Iterable[Item]) -> str:
    """A hash of what the input says, without the bytes of its pictures."""
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        digest.update(repr((item.key, item.picture.name, item.texts)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class Copies:
    """Finds pictures whose bytes came before in the input, in 16 bytes for each picture and as much again."""

    def __init__(self) -> None:
        self._hashes, self._numbers = bytearray(), bytearray()

    def see(self, number: int, digest: str) -> None:
        """Note the hash of a picture."""
        self._hashes += bytes.fromhex(digest)
        self._numbers += number.to_bytes(8, "little")

    def firsts(self) -> dict[str, int]:
        """The number of the first picture of each hash that several have."""
        hashes = np.frombuffer(self._hashes, ">u8").reshape(-1, 2)
        numbers = np.frombuffer(self._numbers, "<u8")
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        same = np.zeros(len(order) + 1, bool)
        same[1:-1] = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
        first = order[~same[:-1] & same[1:]]
        return {hashes[at].tobytes().hex(): int(numbers[at]) for at in first}
