"""Search a folder: update its index, find the nearest pictures by ITC, re-rank the best by ITM."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np

from blip_core.inference.cells import AUTO, CELLS, COMPARE, import_faiss, in_cells
from blip_core.inference.matcher import Matcher
from blip_core.jobs.sharding import SHARD_SIZE, Done, OnRay, Shard, Share, Work, cut, work_through
from blip_core.processing.video import FRAMES
from blip_core.search.collection import Collection
from blip_core.search.feature_index import Entry, FeatureIndex, default_index, delete_index, indexed_folder
from blip_core.search.folder_encoder import FolderEncoder
from blip_core.search.index_cells import IndexCells
from blip_core.search.index_parts import Parts, encode_part, start_elsewhere
from blip_core.search.neighbours import Hit, candidates, find, rerank
from blip_core.stores import on_disk
from blip_core.validators import choice

ALL = Share()
MOST_EXACT = 1_000_000
"""Pictures that a query is compared with one by one, unless told otherwise: about 0.4 s on two cores."""
RERANK = 16
"""How many of the best are matched by default: each takes a CPU about half a second (the original: 128)."""


class Searcher:
    """Find the pictures of a folder that fit texts or pictures best, with an index that is kept on disk.

    Args:
        matcher: A `Matcher`.
        folder: The folder, or a `Collection` of what it holds.
        index: The folder of the index; None for one in the user's cache.
        rebuild: Rebuild the index from scratch.
        recursive: Search subfolders as well.
        videos: Search videos as well.
        frames: How many frames represent a video.
        batch_size: How many frames the model gets at once.
        compare: "exact" compares a query with all pictures, "cells" with those in cells near it, which FAISS finds once
            and which miss some hits; "auto" is exact up to 1,000,000 pictures, and where FAISS is not installed.

    Raises:
        OSError: Where the index cannot be read or written.
        ValueError: For a folder with nothing to search in, and for an index of another folder or model.

    Example:
        >>> from blip_core import Searcher
        >>> with Searcher.from_pretrained(folder="tests/data/emoji", index="index") as searcher:
        ...     hits = searcher(["a fox"], top=3)[0]
        >>> len(hits)
        3
    """

    def __init__(
        self,
        matcher: Matcher,
        folder: str | os.PathLike[str] | Collection,
        *,
        index: str | os.PathLike[str] | None = None,
        rebuild: bool = False,
        recursive: bool = False,
        videos: bool = False,
        frames: int = FRAMES,
        batch_size: int = 8,
        compare: str = AUTO,
    ):
        choice("compare", compare, COMPARE)
        if compare == CELLS:
            import_faiss("Searching in cells")
        self.compare = compare
        if not isinstance(folder, Collection):
            folder = Collection.find(folder, recursive=recursive, videos=videos)
        self.matcher, self.collection = matcher, folder
        self.encoder = FolderEncoder(matcher, os.path.abspath(folder.folder), frames, batch_size)
        identity = matcher.features_identity
        path = on_disk(index) if index else default_index(folder.folder, identity)
        if rebuild:
            delete_index(path)
        self.index = FeatureIndex(path, folder.folder, identity, matcher.width)
        self.parts = Parts(path, identity, matcher.width)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        folder: str | os.PathLike[str],
        engine: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        revision: str | None = None,
        background: str | Sequence[int] | None = None,
        fast_decode: bool = False,
        **options: Any,
    ) -> Self:
        """Load a matcher and open the index of a folder.

        Args:
            name, engine, device, dtype, revision, background, fast_decode: As in `Matcher.from_pretrained`.
            folder: The folder to search.
            **options: Keywords of the constructor.

        Returns:
            The searcher.

        Raises:
            OSError: As `Matcher.from_pretrained` and the constructor do.
            ValueError: As they do.
        """
        matcher = Matcher.from_pretrained(
            name,
            engine=engine,
            device=device,
            dtype=dtype,
            revision=revision,
            background=background,
            fast_decode=fast_decode,
        )
        return cls(matcher, folder, **options)

    @classmethod
    def of_index(cls, matcher: Matcher, index: str | os.PathLike[str]) -> Self:
        """Open an index as it is: what it holds can be searched, and no folder is listed.

        Args:
            matcher: A `Matcher` of the model that made the index.
            index: The folder of the index.

        Returns:
            The searcher.

        Raises:
            OSError: Where the index cannot be read.
            ValueError: For a folder that holds no index, and for one of another model.
        """
        folder = indexed_folder(index)
        searcher = cls(matcher, Collection(folder, {}, {}), index=index)
        stamps = {name: entry.stamp for name, entry in searcher.index.entries().items()}
        searcher.collection = Collection(folder, stamps, {})
        return searcher

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.index.close()

    def __call__(
        self,
        texts: Sequence[str] = (),
        images: Sequence[str | os.PathLike[str]] = (),
        *,
        top: int = 10,
        rerank: int = RERANK,
    ) -> list[list[Hit]]:
        """Update the index and search it.

        Args:
            texts: What to look for, in words.
            images: Pictures or videos to find similar ones to.
            top: How many hits to return for each.
            rerank: How many of the best hits of each text are re-ranked by the matching head.

        Returns:
            The hits of each text, then of each picture, best first.

        Raises:
            OSError: For a picture of `images` that cannot be read.
            ValueError: For texts that are too long.
        """
        queries = self.queries(texts, images)
        for _ in self.update():
            pass
        hits = self.search(queries, max(top, rerank if texts else 0))
        for _ in self.rerank(texts, hits[: len(texts)], rerank):
            pass
        return [found[:top] for found in hits]

    def queries(self, texts: Sequence[str], images: Sequence[str | os.PathLike[str]] = ()) -> np.ndarray:
        """Encode what to look for.

        Args:
            texts: Texts.
            images: Paths of pictures or videos.

        Returns:
            Their features, float32 (texts + images, F).

        Raises:
            OSError: For a picture that cannot be read.
            ValueError: For texts that are too long.
        """
        features = [np.empty((0, self.matcher.width), np.float32)]
        features += [self.matcher.text_features(texts)] if texts else []
        here = replace(self.encoder, folder="")
        items = [here.read(image) for image in images]
        features += [self.matcher.item_features([item], self.encoder.batch_size) for item in items]
        return np.concatenate(features)

    def outdated(self, *, with_parts: bool = False) -> list[str]:
        """Return the names of files that are new or have changed since they were encoded.

        Args:
            with_parts: Leave out what parts of the index, not taken in yet, have already.
        """
        known: dict[str, tuple[str, int]] = {n: (e.stamp, e.frames) for n, e in self.index.entries().items()}
        known |= self.parts.entries() if with_parts else {}
        return [
            name
            for name, state in self.collection.stamps.items()
            if name not in known or known[name][0] != state or known[name][1] not in (0, self.encoder.frames)
        ]

    def update(self) -> Iterator[tuple[str, Exception | None]]:
        """Encode new and changed files, batch by batch, and remove deleted ones from the index.

        Yields:
            The name of each file, with None once it is encoded, or the error of one that cannot be read.
        """
        self.parts.take_into(self.index)
        known, stamps = self.index.entries(), self.collection.stamps
        # Files that this search leaves out, as of subfolders, stay in the index as long as they exist.
        exists = {name: os.path.lexists(os.path.join(self.encoder.folder, name)) for name in known.keys() - stamps}
        self.index.remove(name for name, there in exists.items() if not there)
        for batch in self.encoder.features(self.outdated()):
            good = {name: result for name, result in batch if not isinstance(result, Exception)}
            if good:
                entries = {name: (stamps[name], frames) for name, (_, frames) in good.items()}
                self.index.add(entries, np.stack([feature for feature, _ in good.values()]))
            for name, result in batch:
                broken = isinstance(result, Exception)
                if broken and name in known:
                    self.index.remove([name])  # the file has broken since it was encoded
                yield name, result if isinstance(result, Exception) else None

    def shards(self, share: Share = ALL, size: int = SHARD_SIZE) -> tuple[list[Shard[tuple[str, str]]], int]:
        """Return this process's share of the files to encode.

        Args:
            share: Which share of the shards.
            size: Pictures in a shard.

        Returns:
            The shards, each with the names and stamps of its outdated files, and how many files are encoded already.
        """
        todo, mine, done = set(self.outdated(with_parts=True)), [], 0
        for shard in share.take(cut(list(self.collection.stamps.items()), size)):
            if items := [item for item in shard.items if item[0] in todo]:
                mine.append(Shard(self.parts.name(shard.name, items), items))
            done += len(shard.items) - len(items)
        return mine, done

    def encode_parts(
        self,
        shards: Sequence[Shard[tuple[str, str]]],
        on_ray: OnRay | None = None,
        load: Callable[[], Matcher] | None = None,
    ) -> Iterator[Done]:
        """Encode shards into parts of the index, which the next `update` takes in.

        Args:
            shards: As `shards` returns them.
            on_ray: Let Ray do the work.
            load: With Ray, a picklable function that loads the matcher in each process.

        Yields:
            What was just processed; `parts.read(shard.name)` has the result of each.
        """
        start: Callable[[], Work[Shard[tuple[str, str]]]] = partial(partial, encode_part, self.encoder, self.parts)
        if on_ray:
            assert load is not None
            settings = (self.encoder.folder, self.encoder.frames, self.encoder.batch_size)
            start = partial(start_elsewhere, load, self.matcher.features_identity, settings, self.parts)
        return work_through(shards, start, on_ray)

    def search(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """Search the index as it is.

        Args:
            queries: Features, float32 (queries, F).
            k: How many hits to return for each.

        Returns:
            The nearest files to each query, best first.
        """
        stamps = self.collection.stamps
        entries = {name: entry for name, entry in self.index.entries().items() if name in stamps}
        cells = self._divided(entries)
        return find(queries, self.index.features, entries, k, cells)

    def _divided(self, entries: Mapping[str, Entry]) -> IndexCells | None:
        """The cells to search in, which are found where they are missing or old; None to compare with all."""
        if not entries or not in_cells(self.compare, len(entries), MOST_EXACT):
            return None
        if self.compare == AUTO and find_spec("faiss") is None:
            warnings.warn(
                f'{len(entries):,} pictures are compared one by one; pip install "blip-duo[faiss]" to search in cells.',
                stacklevel=3,
            )
            return None
        if self.index.cells.outdated(np.array([entry.row for entry in entries.values()])):
            self.index.divide()
        return self.index.cells

    def rerank(self, texts: Sequence[str], hits: Sequence[list[Hit]], k: int) -> Iterator[tuple[str, Exception | None]]:
        """Re-rank the best hits of each text by ITM, in place; each picture is encoded once for all texts.

        Args:
            texts: Texts.
            hits: The hits of each.
            k: How many of each to match.

        Yields:
            The name of each file, with None once it is matched, or the error of one that cannot be read.
        """
        problems: list[tuple[str, Exception]] = []

        def states() -> Iterator[tuple[str, np.ndarray]]:
            for name, found in self.encoder.states(list(candidates(hits, k))):
                if isinstance(found, Exception):
                    problems.append((name, found))
                else:
                    yield name, found

        for name in rerank(self.matcher, texts, hits, k, states()):
            yield from problems
            problems.clear()
            yield name, None
        yield from problems
