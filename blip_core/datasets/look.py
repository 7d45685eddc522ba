"""What a data set's form is recognised by: the beginning of a file, its JSON, the names in a folder."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from blip_core.datasets.examples import Picture
from blip_core.datasets.json_array import array_values
from blip_core.files import open_regular
from blip_core.stores import file_names

Source = str | os.PathLike[str]
Item = tuple[str, tuple[Picture, ...] | None, dict[str, Any]] | tuple[str, str]
"""What a reader yields: a place in the file, pictures and fields; or a place and what is wrong there.

Pictures are None where the field `image` names one or `images` several, to be looked for. Each may be a tuple of names,
which are tried in order."""
MAX_LINE_BYTES = 2**20
MAX_DOCUMENT_BYTES = 2**32  # of a file that is one JSON value, which Python needs some times as much memory for
SAVE = "save it as UTF-8 (a spreadsheet: as CSV UTF-8)"


class Look:
    """A file or folder that may be a data set; each fact is read when it is first asked for.

    Args:
        path: The file or folder.
        others: All paths of the same data set, in which a form that is spread over several files finds the others.

    Raises:
        OSError: For a file that cannot be opened.
        ValueError: For a file that is compressed or UTF-16.
    """

    def __init__(self, path: Path, others: Iterable[Path] = ()):
        self.path = path
        self.others = others
        self.is_folder = path.is_dir()
        self.start = b""
        if not self.is_folder:
            with open_regular(path) as file:
                self.start = file.read(512)
        if self.start[:2] == b"\x1f\x8b":
            raise ValueError(f"{path} is compressed; entries cannot be found by their place in it: unpack it first.")
        if self.start[:2] in (BOM_UTF16_BE, BOM_UTF16_LE):
            raise ValueError(f"{path} is UTF-16; {SAVE}.")

    @property
    def suffix(self) -> str:
        """The suffix of the name in small letters, such as ".csv"."""
        return self.path.suffix.lower()

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in a folder; none for a file."""
        return (file_names(str(self.path)) or frozenset()) if self.is_folder else frozenset()

    @cached_property
    def opening(self) -> str:
        """The first letter of a file but for white space and a byte-order mark, such as "{"."""
        return self.start.removeprefix(BOM_UTF8).lstrip()[:1].decode("latin-1")

    @cached_property
    def heading(self) -> str:
        """The first line of a text file; "" where it cannot be read as one."""
        if self.is_folder:
            return ""
        first = next(iter(lines(self.path)), None)
        return (first or b"").decode("utf-8", "replace").strip()

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The first object of JSON lines or of a JSON array; an empty one where there is none."""
        if self.opening == "[":
            try:
                return next((one for one in islice(self.array(), 1) if isinstance(one, dict)), {})
            except ValueError:  # which reading it tells
                return {}
        return next((one for one in self._objects if one), {})

    @cached_property
    def document(self) -> Any:
        """The value of a file that is one JSON object of several lines or without entries; None for all else."""
        if self.opening != "{" or (len(self._objects) > 1 and any(self._objects)):
            return None  # JSON lines
        try:
            return self._parse()
        except ValueError:
            return None

    def array(self) -> Iterator[Any]:
        """Yield the values of a file that is a JSON array. Raises `ValueError` where it is not valid."""
        return array_values(self.path)

    def list_of(self, name: str) -> list[Any] | None:
        """Return a list that the JSON object of the whole file holds under a name, None where there is none."""
        value = self.document.get(name) if isinstance(self.document, dict) else None
        return value if isinstance(value, list) else None

    def first_of(self, name: str) -> dict[str, Any]:
        """Return the first object of that list, an empty one where there is none."""
        return next((one for one in (self.list_of(name) or [])[:1] if isinstance(one, dict)), {})

    @cached_property
    def _objects(self) -> list[dict[str, Any] | None]:
        """The first two lines that are not empty, as objects; None for one that is no object."""
        if self.is_folder or self.opening != "{":
            return []
        found = (line for line in lines(self.path) if line is None or line.strip())
        return [_to_object(line) for line in islice(found, 2)]

    def _parse(self) -> Any:
        if (size := self.path.stat().st_size) > MAX_DOCUMENT_BYTES:
            raise ValueError(
                f"{self.path} is one JSON value of {size} bytes, too many to read at once; use JSON lines."
            )
        try:
            return json.loads(self.path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is not a valid JSON object ({error}); correct it or restore it.") from None


def _to_object(line: bytes | None) -> dict[str, Any] | None:
    try:
        value = json.loads(line or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def lines(file: Path) -> Iterator[bytes | None]:
    """Yield the lines of a file, without a byte-order mark; None for a line that is too long, which is not kept."""
    with open_regular(file) as opened:
        if opened.read(len(BOM_UTF8)) != BOM_UTF8:
            opened.seek(0)
        while line := opened.readline(MAX_LINE_BYTES):
            too_long = len(line) == MAX_LINE_BYTES and line[-1:] != b"\n"
            while len(line) == MAX_LINE_BYTES and line[-1:] != b"\n":
                line = opened.readline(MAX_LINE_BYTES)
            yield None if too_long else line


def text_lines(file: Path) -> Iterator[tuple[str, str | ValueError]]:
    """Yield the number from 1 of each line that is not empty and the line, or what is wrong with it."""
    for number, line in enumerate(lines(file), 1):
        try:
            if line is None:
                raise ValueError(f"is longer than {MAX_LINE_BYTES} bytes, which no example needs")
            if text := line.decode().strip():
                yield str(number), text
        except UnicodeDecodeError as error:
            yield str(number), ValueError(f"is not UTF-8 ({error}); {SAVE}")
        except ValueError as error:
            yield str(number), error


def each(
    entries: Iterable[tuple[str, Any]], make: Callable[[Any], dict[str, Any] | list[dict[str, Any]]]
) -> Iterator[Item]:
    """Make fields in our form, of one example or several, of each entry of a published form.

    Args:
        entries: Places and values, of which any may be a `ValueError`.
        make: Raises `ValueError` for an entry that cannot be used.
    """
    for place, entry in entries:
        try:
            if isinstance(entry, ValueError):
                raise entry
            made = make(entry)
            if isinstance(made, dict):
                yield place, None, made
            else:
                yield from ((f"{place}.{number}", None, fields) for number, fields in enumerate(made))
        except ValueError as error:
            yield place, str(error)


def numbered(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield values with their index from 0 as the place."""
    return ((str(number), value) for number, value in enumerate(values))


def field(entry: Any, name: str, *kinds: type) -> Any:
    """Return a field of an entry that is not trusted. Raises `ValueError` where it is missing or of another type."""
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {entry!r:.80}")
    value = entry.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join({str: "a text", int: "a whole number", list: "a list"}[kind] for kind in kinds)
        raise ValueError(f"{name} must be {expected}, got {value!r:.80}")
    return value


def moved(
    items: Iterable[Item], begin: str, change: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Iterator[Item]:
    """Yield items with `begin` before their places, and their fields as `change` makes them."""
    for item in items:
        place = begin + item[0] if item[0] else begin.rstrip(":/")
        if len(item) == 2:
            yield place, item[1]
        else:
            yield place, item[1], change(item[2]) if change else item[2]
