"""What a data set consists of: examples, the pictures they name, and what was wrong with the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

from PIL import Image

from blip_core.datasets.spool import Spool
from blip_core.files import Version, file_version
from blip_core.processing.picture_files import load_image

MAX_PICTURE_BYTES = 2**28


class ChangedError(OSError):
    """A shard is no longer what it was when it was opened, so that nothing is found by its place."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is not read yet: a file, or the `size` bytes at `offset` of a tar shard, there called `member`.

    `version` is that of the shard in which the place was found.
    """

    path: str
    member: str = ""
    offset: int = 0
    size: int = 0
    version: Version | None = None

    @property
    def name(self) -> str:
        """The path, of a picture in a shard with the member's name behind it."""
        return f"{self.path}:{self.member}" if self.member else self.path

    def load(self) -> Image.Image:
        """Read the picture, turned upright as its camera noted; its mode stays.

        Raises `OSError` where it is missing or broken, `ChangedError` where its shard is another one now, `ValueError`
        where it has too many pixels, each naming it.
        """
        return load_image(self.read(), name=self.name) if self.member else load_image(self.path)

    def read(self) -> bytes:
        """The bytes of the picture.

        Raises `OSError` where there are none, `ChangedError` where the shard is another one now, `ValueError` for more
        than 256 MB.
        """
        data = self._read()
        if self.version:
            check_version(self.path, self.version)
        if len(data) > MAX_PICTURE_BYTES:
            raise ValueError(f"{self.name} is of more than {MAX_PICTURE_BYTES} bytes, which no picture may have")
        return data

    def _read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size if self.member else MAX_PICTURE_BYTES + 1)


def check_version(path: str | os.PathLike[str], version: Version) -> None:
    """Raise `ChangedError` where a file has another version by now; called after reading, it misses no change."""
    try:
        now = file_version(path)
    except OSError:
        now = None
    if now != version:
        raise ChangedError(
            f"{os.fspath(path)} {'changed' if now else 'vanished'} while it was read; put it back as it was, or begin "
            "anew when nothing writes to it any more."
        )


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a data set, checked for its type; texts are as the file has them.

    `key` names it, "captions.json:17" or "photos:sub/cat.jpg", and is unique in the data set. `images` is one picture,
    for NLVR two. `texts` is one or more captions, the question, or the sentence. Examples of the same picture have the
    same `image_id`. `answers` are different answers to the question, each with one of `weights`. `label` is 1 where
    the sentence is true, else 0. What a file for testing lacks is None or empty.
    """

    key: str
    images: tuple[Picture, ...]
    texts: tuple[str, ...]
    image_id: str | int | None = None
    question_id: str | int | None = None
    answers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    label: int | None = None


class StoredExamples(Sequence[Example]):
    """Examples in a temporary file, of which one is made anew each time that it is asked for."""

    def __init__(self) -> None:
        self._rows = Spool()
        self._kinds: list[type[Picture]] = []

    def append(self, example: Example) -> None:
        """Add an example, before one is asked for. Raises `OSError` where there is no room."""
        self._rows.append(self._to_row(example))

    def flush(self) -> None:
        """End adding. Raises `OSError` where there is no room."""
        self._rows.flush()

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
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
    """The examples of one or several files, in their order, and `problems`: what could not be used, and why."""

    def __init__(self, task: str, examples: Sequence[Example], problems: Sequence[tuple[str, str]] = ()):
        self.task = task
        self.examples = examples
        self.problems = list(problems)
        self._reported = {where for where, _ in problems}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return list(self.examples[index]) if isinstance(index, slice) else self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def tell_problems(self, name: str, known: int = 0) -> str:
        """What of the data set, called `name`, cannot be used, but for the first `known` problems; "" where all can."""
        new = self.problems[known:]
        return f"{len(new)} entries of {name} cannot be used; the first, {new[0][0]}: {new[0][1]}" if new else ""

    def report(self, where: str, reason: str) -> None:
        """Add a problem, once for each place; threads may call it."""
        with self._lock:
            if where not in self._reported:
                self._reported.add(where)
                self.problems.append((where, reason))
