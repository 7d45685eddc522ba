"""Input that nobody lists first: each of its files is a shard, which whoever works on it lists for all others.

OUTPUT/listed/00000.jsonl has a line for each picture of the first file, with its place in it and its web captions, and
one for each entry that cannot be used.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import accumulate
from typing import Any, overload

from blip_core.capfilt.items import Item, Line, find_items
from blip_core.datasets import Picture
from blip_core.datasets.parquet import ParquetPicture
from blip_core.datasets.sources import expand, names_of, read_dataset
from blip_core.files import read_lines, write_lines
from blip_core.jobs.sharding import Shard, writing
from blip_core.stores import StoreCache, is_address, to_path

KINDS: dict[str, type[Picture]] = {kind.__name__: kind for kind in (Picture, ParquetPicture)}
"""The classes of pictures of streamed files."""
LISTED = "listed"
OPEN = 4
"""Listings that stay in memory."""


class Stream:
    """The files of an input, tar shards or Parquet, which `capfilt` takes in place of a data set.

    Args:
        paths: What `open_dataset` takes: files or patterns of them. They are looked for, but not opened.
        image_root, split, store_cache: As for `open_dataset`.

    Raises:
        OSError: For a path that is missing.
        ValueError: For a folder.
    """

    def __init__(
        self, paths: Any, image_root: Any = None, split: str | None = None, store_cache: StoreCache | None = None
    ):
        self.files = [str(file) for source in ([paths] if isinstance(paths, str) else paths) for file in expand(source)]
        if folder := next((file for file in self.files if os.path.isdir(file)), None):
            raise ValueError(
                f"{folder} is a folder, and a stream takes files; name those in it, such as {folder}/*.tar."
            )
        self.options = (image_root, split, store_cache)

    @property
    def fingerprint(self) -> str:
        """A hash of the names of the files, the folder of pictures and the split."""
        return hashlib.blake2b(repr((self.files, self.options[:2])).encode(), digest_size=16).hexdigest()

    def shards(self, folder: Any) -> list[Shard[Item]]:
        """Return the shards of a run in a folder; their items are read when they are iterated over."""
        names = names_of(list(map(to_path, self.files)))
        return [
            Shard(f"{number:05}", Listing(folder / LISTED / f"{number:05}.jsonl", file, name, self.options))
            for number, (file, name) in enumerate(zip(self.files, names, strict=True))
        ]


class Listing(Sequence[Item]):
    """The items of a file of the input, numbered from 0, as the file `path` lists them, which is written if need be."""

    def __init__(self, path: Any, file: str, name: str, options: tuple[Any, ...]):
        self.path, self.file, self.name, self.options = path, file, name, options

    def __len__(self) -> int:
        return len(self.read()[0])

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.read()[0][index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.read()[0])

    def read(self) -> tuple[list[Item], list[Line]]:
        """Return the items and what cannot be used. Raises `ValueError` for a damaged listing, `OSError`."""
        if not self.path.exists():
            lines = self._list()
            with writing(self.path.parent):
                write_lines(self.path, lines)
        items: list[Item] = []
        unusable: list[Line] = []
        try:
            for line in read_lines(self.path):
                if "reason" in line:
                    unusable.append(line)
                    continue
                kind, *values = line["picture"]
                given: list[Any] = [tuple(value) if isinstance(value, list) else value for value in values]
                picture = KINDS[kind](*given)
                items.append(Item(len(items), line["key"], self._cached(picture), tuple(line["texts"])))
        except (LookupError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); remove it and run again to rebuild it.") from None
        return items, unusable

    def _list(self) -> list[Line]:
        """The lines of the listing. A file that cannot be had, or that is none, is one that cannot be used."""
        try:
            dataset = read_dataset([self.file], "caption", *self.options)
        except ValueError as error:
            return [{"key": self.name, "reason": "unusable", "detail": str(error)}]
        items, unusable = find_items(dataset)
        begin = len(to_path(self.file).name)
        lines: list[Line] = []
        for item in items:
            picture = replace(item.picture, cache=None)
            values = [getattr(picture, field.name) for field in fields(picture)]
            key = self.name + item.key[begin:]
            lines.append({"key": key, "picture": [type(picture).__name__, *values], "texts": item.texts})
        return lines + [{**line, "key": self.name + line["key"][begin:]} for line in unusable]

    def _cached(self, picture: Picture) -> Picture:
        cache: StoreCache | None = self.options[2]
        return replace(picture, cache=(cache.folder, cache.size)) if cache and is_address(picture.path) else picture


class Listed(Sequence[Item]):
    """The items of all shards, numbered through; a few listings are in memory at a time."""

    def __init__(self, shards: Sequence[Shard[Item]]):
        self._listings = [shard.items for shard in shards]
        self._ends = list(accumulate((len(items) for items in self._listings), initial=0))
        self._loaded: OrderedDict[int, list[Item]] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Part(self, range(len(self))[index])
        number = range(len(self))[index]
        shard = bisect_right(self._ends, number) - 1
        if shard not in self._loaded:
            self._loaded[shard] = list(self._listings[shard])
            if len(self._loaded) > OPEN:
                self._loaded.popitem(last=False)
        return replace(self._loaded[shard][number - self._ends[shard]], number=number)

    def shards(self, shards: Sequence[Shard[Item]]) -> list[Shard[Item]]:
        """Return the shards with items that are numbered through."""
        return [Shard(shard.name, self[self._ends[at] : self._ends[at + 1]]) for at, shard in enumerate(shards)]

    def unusable(self) -> Iterator[Line]:
        """Yield what of the input cannot be used."""
        for listing in self._listings:
            assert isinstance(listing, Listing)
            yield from listing.read()[1]


class _Part(Sequence[Item]):
    """Some items of a sequence."""

    def __init__(self, whole: Sequence[Item], numbers: range):
        self._whole, self._numbers = whole, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._whole[self._numbers[index]]
