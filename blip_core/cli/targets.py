"""Where captions are kept: in a file beside each picture, in one file of all. Both know what is done already."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from blip_core.cli.report import json_line
from blip_core.files import atomic_path

Entry = dict[str, Any]


class Target(Protocol):
    """Something that captions are written to and that remembers them from run to run."""

    def has(self, image: str) -> bool:
        """Say whether this picture's caption is there already."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Write captions so that they stay, whatever happens next."""
        ...


class Sidecars:
    """A text file beside each picture: its name with another suffix."""

    def __init__(self, suffix: str, overwrite: bool):
        self.suffix = suffix
        self.overwrite = overwrite

    def path(self, image: str) -> Path:
        """The file of a picture's caption."""
        return Path(image).with_suffix(self.suffix)

    def has(self, image: str) -> bool:
        return not self.overwrite and self.path(image).exists()

    def write(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            with atomic_path(self.path(entry["image"])) as temporary:
                temporary.write_text(entry["caption"] + "\n", encoding="utf-8")


class OutputFile:
    """All captions in one file: a JSON object per line (`.jsonl`), or columns under their names (`.csv`).

    A run goes on where the last one stopped, even if it was killed in the middle of a line; pictures are known by
    their absolute path. The file is not touched before the first caption is there, and each batch is on the disk when
    `write` returns. Raises `ValueError` for a file with other content.
    """

    def __init__(self, path: str, columns: Sequence[str], overwrite: bool):
        self.path = Path(path)
        self.columns = list(columns)
        self.csv = self.path.suffix.lower() == ".csv"
        # File names may hold bytes that are no UTF-8. In CSV they stay as they are; in JSON they become `\udc..`.
        self.errors = "surrogateescape" if self.csv else "backslashreplace"
        self._images: set[str] = set()
        self._length = 0  # of the whole lines, in bytes
        if not overwrite and self.path.exists():
            self._images = {os.path.abspath(image) for image in self._read(self.path.read_bytes())}

    def has(self, image: str) -> bool:
        return os.path.abspath(image) in self._images

    def write(self, entries: Sequence[Entry]) -> None:
        text = io.StringIO()
        if self.csv:
            writer = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
            if not self._length:
                writer.writeheader()
            writer.writerows(entries)
        else:
            text.writelines(json_line(entry) for entry in entries)
        data = text.getvalue().encode("utf-8", self.errors)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self._length else "wb") as file:
            file.truncate(self._length)  # half a line goes
            file.seek(self._length)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._length += len(data)

    def _read(self, data: bytes) -> list[str]:
        """The pictures of the whole lines of an earlier run; finds where these end."""
        self._length = whole_lines(data, quotes=self.csv)
        rest = data[self._length :]
        beginning = b'{"image": "' if not self.csv else b"" if self._length else ",".join(self.columns).encode()
        try:
            if rest[: len(beginning)] != beginning[: len(rest)]:
                raise ValueError("its last line is not one of ours that was cut off")
            if not self.csv:
                return [json.loads(line)["image"] for line in data[: self._length].split(b"\n") if line]
            text = data[: self._length].decode("utf-8", self.errors)
            rows = csv.DictReader(io.StringIO(text, newline=""))
            if text and rows.fieldnames != self.columns:
                raise ValueError(f"its columns are {rows.fieldnames}, not {self.columns}")
            return [row["image"] for row in rows]
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise ValueError(
                f"{self.path} cannot be gone on with, as this command has not written it: {error}. "
                "Choose another file, or --overwrite this one."
            ) from None


def whole_lines(data: bytes, *, quotes: bool) -> int:
    """The length in bytes of the whole lines that `data` begins with; with `quotes`, quoted newlines end no line."""
    end = data.rfind(b"\n") + 1
    while quotes and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end
