"""What a data set consists of: examples, their pictures, and what is wrong with the rest."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from blip_core.datasets.spool import Spool
from blip_core.files import Version, file_version, open_regular
from blip_core.processing.picture_files import READ, load_image
from blip_core.processing.video import sample_frames
from blip_core.stores import StoreCache, StorePath, is_address, to_path

MAX_PICTURE_BYTES = 2**28


class ChangedError(OSError):
    """A shard was changed after it was opened, so that places in it are no longer right."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is not read yet: a file, or `size` bytes at `offset` of a tar shard.

    Attributes:
        path: The file or shard.
        member: The picture's name in the shard, "" for a file.
        offset: Where it begins in the shard, in bytes.
        size: Its length in the shard, in bytes.
        version: The version of the shard for which these hold.
        cache: The folder and size of the cache that shards of a store are copied to.
    """

    path: str
    member: str = ""
    offset: int = 0
    size: int = 0
    version: Version | None = None
    cache: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """The path; of a picture in a shard, "PATH:MEMBER"."""
        return f"{self.path}:{self.member}" if self.member else self.path

    def load(self, least: int | None = None) -> Image.Image:
        """Read the picture and turn it upright by its EXIF orientation, in its own mode; `least` as in `load_image`.

        Raises:
            OSError: If it is missing or broken; `ChangedError` if its shard was changed.
            ValueError: If it has too many pixels.
        """
        in_memory = self.member or is_address(self.path)
        return load_image(self.read() if in_memory else self.path, name=self.name, least=least)

    def read(self) -> bytes:
        """Return the encoded bytes of the picture.

        Raises:
            OSError: If it is missing; `ChangedError` if its shard was changed.
            ValueError: If it has more than 256 MB.
        """
        data = self._read()
        if self.version and not self._copy(fetch=False):  # a copy is one of this version
            check_version(self.path, self.version)
        READ.add(len(data))
        if len(data) > MAX_PICTURE_BYTES:
            raise ValueError(f"{self.name} is of more than {MAX_PICTURE_BYTES} bytes, which no picture may have")
        return data

    def _copy(self, fetch: bool = True) -> Path | None:
        """The copy of its shard in the cache, None without one."""
        if self.cache is None or self.version is None:
            return None
        return StoreCache(*self.cache).copy(to_path(self.path), self.version, fetch)

    def _read(self) -> bytes:
        while copy := self._copy():
            with suppress(FileNotFoundError), open(copy, "rb") as file:  # which another process has just removed
                file.seek(self.offset)
                return file.read(self.size)
        if is_address(self.path):
            place, most = to_path(self.path), MAX_PICTURE_BYTES + 1
            return bytes(place.read_part(self.offset, self.size if self.member else min(place.stat().st_size, most)))
        with open_regular(self.path) as file:
            file.seek(self.offset)
            return file.read(self.size if self.member else MAX_PICTURE_BYTES + 1)


@dataclass(frozen=True, slots=True)
class VideoPicture(Picture):
    """The frame in the middle of a video file."""

    def load(self, least: int | None = None) -> Image.Image:
        """Decode the frame. Raises `OSError` where it is missing or broken, `ValueError` where PyAV is missing."""
        if is_address(self.path):
            raise ValueError(f"{self.path} is a video, which is read from disks alone; copy it to one.")
        return sample_frames(self.path, 2)[-1]

    def _read(self) -> bytes:
        file = io.BytesIO()
        self.load().save(file, "PNG")
        return file.getvalue()


def cache_of(path: Any) -> tuple[str, int] | None:
    """Return the folder and size of the cache that a path has, None without one."""
    cache = path.cache if isinstance(path, StorePath) else None
    return None if cache is None else (cache.folder, cache.size)


def check_version(path: str | os.PathLike[str], version: Version) -> None:
    """Raise `ChangedError` where a file has another version now; called after reading, this misses no change."""
    try:
        now = file_version(path)
    except OSError:
        now = None
    if now != version:
        raise ChangedError(
            f"{os.fspath(path)} {'changed' if now else 'vanished'} while it was read; restore it, or begin again "
            "when nothing writes to it any more."
        )


@dataclass(frozen=True, slots=True)
class Example:
    """One entry of a data set, validated. What an entry lacks, as in files for testing, is None or empty.

    Attributes:
        key: Its name, unique in the data set: "captions.json:17" or "photos:sub/cat.jpg".
        images: One picture; for NLVR two.
        texts: One or more captions, the question, or the sentence, as the file has them.
        image_id: The same for examples of the same picture.
        question_id: Of VQA.
        answers: Different answers to the question.
        weights: The weight of each answer in the loss.
        label: 1 where the sentence is true, else 0.
        box: The box of what the texts say, in pixels of the picture: x and y of its corner, width and height.
        sources: Where each of the texts is from, "web" or "synthetic", as `blip capfilt` writes; empty for other data.
        group: What results are reported by, too: the domain of NoCaps, the type of an answer of VQA v2.
    """

    key: str
    images: tuple[Picture, ...]
    texts: tuple[str, ...]
    image_id: str | int | None = None
    question_id: str | int | None = None
    answers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    label: int | None = None
    group: str | None = None
    box: tuple[float, ...] = ()
    sources: tuple[str, ...] = ()


class StoredExamples(Sequence[Example]):
    """Examples in a temporary file; indexing reads one from it."""

    def __init__(self) -> None:
        self._rows = Spool()
        self._kinds: list[type[Picture]] = []
        self.store: Any = None  # lives as long: a file of pictures

    def append(self, example: Example) -> None:
        """Add an example; only before the first is read. Raises `OSError` on a full disk."""
        self._rows.append(self._to_row(example))

    def flush(self) -> None:
        """Write the last examples to the file. Raises `OSError` on a full disk."""
        self._rows.flush()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._to_example(row) for row in self._rows[index]]
        return self._to_example(self._rows[index])

    def _to_row(self, example: Example) -> list[Any]:
        key, images, *others = _values(example)
        return [key, [[self._number(type(picture)), *_values(picture)] for picture in images], *others]

    def _number(self, kind: type[Picture]) -> int:
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)

    def _to_example(self, row: list[Any]) -> Example:
        key, images, *others = row
        pictures = tuple(self._kinds[kind](*map(_as_tuple, values)) for kind, *values in images)
        return Example(key, pictures, *map(_as_tuple, others))


def _values(row: Example | Picture) -> list[Any]:
    return [getattr(row, field.name) for field in fields(row)]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Dataset(Sequence[Example]):
    """The examples of one or several files, in order.

    Attributes:
        task: The task that they were opened for.
        examples: The sequence of them, which may lie on disk.
        problems: Place and reason of what cannot be used; reading pictures adds to it.
        forms: The form that each file was read as, by its name.
        splits: How many entries each split has, also of those that were not asked for.
    """

    def __init__(
        self,
        task: str,
        examples: Sequence[Example],
        problems: Sequence[tuple[str, str]] = (),
        forms: Mapping[str, str] | None = None,
        splits: Mapping[str, int] | None = None,
    ):
        self.task = task
        self.examples = examples
        self.problems = list(problems)
        self.forms, self.splits = dict(forms or {}), dict(splits or {})
        self._reported = {where for where, _ in problems}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        return list(self.examples[index]) if isinstance(index, slice) else self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def tell_problems(self, name: str, known: int = 0) -> str:
        """Return a sentence on the problems of data called `name` after the first `known`, "" if there are none."""
        new = self.problems[known:]
        return f"{len(new)} entries of {name} cannot be used; the first, {new[0][0]}: {new[0][1]}" if new else ""

    def report(self, where: str, reason: str) -> None:
        """Add a problem, once for each place; threads may call it."""
        with self._lock:
            if where not in self._reported:
                self._reported.add(where)
                self.problems.append((where, reason))
