"""Where captions are kept: in a file beside each picture, in one file of all. Both know what is done already."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

from blip_core.cli.find_pictures import absolute
from blip_core.cli.report import json_line, printable
from blip_core.files import atomic_path, temporary_name
from blip_core.jobs.writer_lock import one_writer
from blip_core.stores import on_disk

Entry = dict[str, Any]
COLUMNS = ("image", "file_name", "caption", "text", "confidence", "log_prob", "tokens", "token_log_probs")
"""What a column of an output file can be; `file_name` is relative to the file, and `text` another name of `caption`."""


class Target(Protocol):
    """Something that captions are written to and that remembers them from run to run; a context while it is used."""

    def has(self, image: str) -> bool:
        """Say whether this picture's caption is there already."""
        ...

    def write(self, entries: Sequence[Entry]) -> dict[str, OSError]:
        """Write captions so that they stay, whatever happens next; returns which pictures' could not be, and why."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Sidecars:
    """A text file beside each picture: its name with another suffix."""

    def __init__(self, suffix: str, overwrite: bool):
        self.suffix = suffix
        self.overwrite = overwrite

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def path(self, image: str) -> Path:
        """The file of a picture's caption."""
        return Path(image).with_suffix(self.suffix)

    def has(self, image: str) -> bool:
        try:
            return not self.overwrite and self.path(image).is_file() and self.path(image).stat().st_size > 0
        except OSError:
            return False

    def write(self, entries: Sequence[Entry]) -> dict[str, OSError]:
        failed = {}
        for entry in entries:
            try:
                with atomic_path(self.path(entry["image"])) as temporary:
                    temporary.write_text("\n".join(entry.get("captions", [entry["caption"]])) + "\n", encoding="utf-8")
            except OSError as error:
                failed[entry["image"]] = error
        return failed

    def tell_empty(self, images: Iterable[str]) -> None:
        """Warn of sidecars without a word, which are written again."""
        empty = [path for path in map(self.path, images) if path.is_file() and not path.stat().st_size]
        if empty and not self.overwrite:
            warnings.warn(f"{len(empty)} sidecars are empty and are written again, such as {empty[0]}.", stacklevel=2)


class OutputFile:
    """All captions in one file: a JSON object per line (`.jsonl`), or columns under their names (`.csv`).

    A run continues where the last one stopped, even if it was killed in the middle of a line; pictures are known by
    their absolute path. The file is not touched before the first caption is there, and each batch is on the disk when
    `write` returns. With `overwrite` the old file stays until the context ends without an error and with a caption.

    As a context it keeps other processes from writing. Entering it raises `BusyError` where one does, and `ValueError`
    for a file with other content.
    """

    def __init__(self, path: str, columns: Sequence[str], overwrite: bool):
        self.path = on_disk(path).expanduser()
        self.columns = list(columns)
        self.overwrite = overwrite
        self.csv = self.path.suffix.lower() == ".csv"
        # File names may hold bytes that are no UTF-8. In CSV they stay as they are; in JSON they become `\udc..`.
        self.errors = "surrogateescape" if self.csv else "backslashreplace"
        self._key = "image" if "image" in self.columns else "file_name"
        self._images: set[str] = set()
        self._length = 0  # of the whole lines, in bytes
        self._file = temporary_name(self.path) if overwrite else self.path
        self._lock = ExitStack()

    def __enter__(self) -> Self:
        self._lock.enter_context(one_writer(self.path))
        with self._lock:  # released if the file cannot be read
            if not self.overwrite and self.path.exists():
                self._images = {self._known(name) for name in self._read(self.path.read_bytes())}
            self._lock = self._lock.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            if self.overwrite and self._file.exists():
                if error[0] is None:
                    os.replace(self._file, self.path)
                else:
                    self._file.unlink()

    def has(self, image: str) -> bool:
        return self._name(image, self._key) in self._images

    def write(self, entries: Sequence[Entry]) -> dict[str, OSError]:
        text = io.StringIO()
        rows = [self._row(entry) for entry in entries]
        if self.csv:
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            if not self._length:
                writer.writeheader()
            writer.writerows(rows)
        else:
            text.writelines(json_line(row) for row in rows)
        data = text.getvalue().encode("utf-8", self.errors)
        with open(self._file, "r+b" if self._length else "wb") as file:
            file.truncate(self._length)  # half a line goes
            file.seek(self._length)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._length += len(data)
        return {}

    def _row(self, entry: Entry) -> Entry:
        """The columns of an entry, and in a JSON object all captions where there are several."""
        names = {key: self._name(entry["image"], key) for key in ("image", "file_name")}
        values = {**entry, **names, "text": entry["caption"]}
        row = {name: values[name] for name in self.columns}
        return {**row, "captions": entry["captions"]} if "captions" in entry and not self.csv else row

    def _name(self, image: str, key: str) -> str:
        """What stands for a picture: its absolute path, or that from the file's folder; in CSV always one line."""
        name = absolute(image)
        if key == "file_name" and os.path.isabs(name):
            name = os.path.relpath(name, self.path.absolute().parent)
        return printable(name) if self.csv else name

    def _known(self, name: str) -> str:
        """A name from the file as `_name` writes it; version 0.1 wrote paths as they were typed."""
        return absolute(name) if self._key == "image" else name

    def _read(self, data: bytes) -> list[str]:
        """The pictures of the whole lines of an earlier run; finds where these end."""
        self._length = whole_lines(data, quotes=self.csv)
        rest = data[self._length :]
        beginning = f'{{"{self.columns[0]}": ' if not self.csv else "" if self._length else ",".join(self.columns)
        try:
            if rest[: len(beginning)] != beginning.encode()[: len(rest)]:
                raise ValueError("its last line is not one of ours that was cut off")
            if not self.csv:
                return [json.loads(line)[self._key] for line in data[: self._length].split(b"\n") if line]
            text = data[: self._length].decode("utf-8", self.errors)
            rows = csv.DictReader(io.StringIO(text, newline=""))
            if text and rows.fieldnames != self.columns:
                raise ValueError(f"its columns are {rows.fieldnames}, not {self.columns}")
            return [row[self._key] for row in rows]
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise ValueError(
                f"{self.path} cannot be continued, as this command has not written it: {error}. "
                "Choose another file, or --overwrite this one."
            ) from None


def whole_lines(data: bytes, *, quotes: bool) -> int:
    """The length in bytes of the whole lines that `data` begins with; with `quotes`, quoted newlines end no line."""
    end = data.rfind(b"\n") + 1
    while quotes and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end
