"""Features of the pictures of a folder, kept on disk and mapped into memory for searching.

An index is a folder of two files, and for very many pictures of two more (`index_cells`). `blip-features.npy` is a
float32 array (rows, width), which NumPy can open; `blip-index.sqlite` says which row belongs to which picture, and
which model made the features. The database is written after the features, in one transaction: a killed run loses only
what it was writing.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from blip_core.files import cache_folder
from blip_core.search.index_cells import CELL_OF, MIDDLES, IndexCells

SCHEMA = (
    "CREATE TABLE made (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE pictures (name BLOB PRIMARY KEY, stamp TEXT, frames INTEGER, row INTEGER UNIQUE)",
    "CREATE TABLE free (row INTEGER PRIMARY KEY)",
)
VERSION = 1
DATABASE = "blip-index.sqlite"
REBUILD = "rebuild it (blip search --rebuild)"
PARTS = "blip-parts"
"""The folder in an index for what other processes have encoded and no search has taken in yet."""
HEADER = 128
"""Bytes before the first feature: NumPy's header, with room for the number of rows to grow."""


class Entry(NamedTuple):
    """What an index stores about a picture or video."""

    stamp: str
    """The file's state when it was encoded (opaque to the index)."""
    frames: int
    """How many frames a video was sampled at; 0 for a picture."""
    row: int
    """Where its feature is in `FeatureIndex.features`."""


class FeatureIndex:
    """The features of a folder's pictures, made by one model. Opens the index, or creates one.

    Names of pictures are relative to `folder` and may hold any bytes of a file name. Several processes may use an index
    at once. Nothing in the files is trusted: sizes are checked, and names are looked up but never opened.

    Args:
        index: The folder of the index.
        folder: The folder of the pictures.
        model: The identity of the model (`Matcher.features_identity`): features of two models are never mixed.
        width: The number of values of a feature.

    Raises:
        OSError: Where the index cannot be read or written.
        ValueError: For damaged or other files, and for an index of other pictures or another model.
    """

    def __init__(self, index: str | os.PathLike[str], folder: str | os.PathLike[str], model: str, width: int):
        self.path = Path(index)
        self.width = width
        self.path.mkdir(parents=True, exist_ok=True)
        self._features = self.path / "blip-features.npy"
        self.cells = IndexCells(self.path, width)
        with self._explained():
            # Another thread may search than opens the index, one at a time.
            self._database = sqlite3.connect(
                self.path / DATABASE, timeout=60, isolation_level=None, check_same_thread=False
            )
        made = {"folder": os.path.realpath(folder), "model": model, "width": str(width)}
        try:
            with self._transaction():
                self._open({name: os.fsencode(value) for name, value in made.items()})
            self._check_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. What was added is already on the disk."""
        self._database.close()

    @property
    def features(self) -> np.ndarray:
        """All rows, float32 (rows, width), mapped from the file; rows that no entry points to are unused."""
        rows = self._whole_rows()
        if not rows:  # an empty file cannot be mapped
            return np.empty((0, self.width), np.float32)
        return np.memmap(self._features, "<f4", "r", HEADER, (rows, self.width))

    def entries(self) -> dict[str, Entry]:
        """Return the entries of all pictures by name, in the order of their rows."""
        rows, found = self._whole_rows(), {}
        with self._explained():
            for name, stamp, frames, row in self._database.execute(
                "SELECT name, stamp, frames, row FROM pictures ORDER BY row"
            ):
                kinds = isinstance(name, bytes) and isinstance(stamp, str) and isinstance(frames, int)
                if not kinds or not isinstance(row, int) or not 0 <= row < rows:
                    raise self._damaged(f"{name!r:.80} has no row among {rows}")
                found[os.fsdecode(name)] = Entry(stamp, frames, row)
        return found

    def add(self, entries: Mapping[str, tuple[str, int]], features: np.ndarray) -> None:
        """Add pictures, or replace those of the same names, durably.

        Args:
            entries: The stamp and the number of frames (0 for a picture) by name.
            features: (pictures, width), in the same order.
        """
        if features.shape != (len(entries), self.width):
            raise ValueError(f"Expected features of shape {(len(entries), self.width)}, got {features.shape}.")
        names = [os.fsencode(name) for name in entries]
        with self._transaction() as database:
            rows = self._take_rows(len(names))  # before any is released: until the commit those are still in use
            self.cells.forget(np.array(rows))
            self._write(rows, features.astype("<f4"))
            self._release(names)
            database.executemany(
                "INSERT INTO pictures VALUES (?, ?, ?, ?)",
                [(name, *entry, row) for name, entry, row in zip(names, entries.values(), rows, strict=True)],
            )

    def divide(self) -> None:
        """Divide all features into cells, for searching in very many; raises as `IndexCells.divide`."""
        with self._transaction():  # nobody writes features meanwhile
            self.cells.divide(self.features)

    def remove(self, names: Iterable[str]) -> None:
        """Remove pictures; their rows are used again."""
        with self._transaction():
            self._release([os.fsencode(name) for name in names])

    def _open(self, wanted: dict[str, bytes]) -> None:
        """Create the tables of an empty database, or check that it is an index of these pictures and this model."""
        found = {sql for (sql,) in self._database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if not found:
            for statement in SCHEMA:
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._database.executemany("INSERT INTO made VALUES (?, ?)", wanted.items())
            self._features.write_bytes(header(0, self.width))
            return
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if found != set(SCHEMA) or version != VERSION:
            raise self._damaged("it was written by another version")
        made = dict(self._database.execute("SELECT name, value FROM made"))
        if made.keys() != wanted.keys() or not all(isinstance(value, bytes) for value in made.values()):
            raise self._damaged("it does not say which pictures and model it is of")
        if made["folder"] != wanted["folder"]:
            mine, yours = (os.fsdecode(names["folder"]) for names in (made, wanted))
            raise ValueError(
                f"The index {self.path} is of the pictures in {mine:.300}, not in {yours}; choose another folder for "
                f"the index, or {REBUILD}."
            )
        if made != wanted:
            raise ValueError(
                f"The index {self.path} was made by another model, or at another image size or precision, and such "
                f"features cannot be compared; choose another folder for the index, or {REBUILD}."
            )

    def _check_header(self) -> None:
        try:
            with open(self._features, "rb") as file:
                beginning = file.read(HEADER)
        except FileNotFoundError:
            raise self._damaged(f"{self._features.name} is missing") from None
        rows = re.search(rb"'shape': \((\d{1,18}), ", beginning)
        if rows is None or header(int(rows[1]), self.width) != beginning:
            raise self._damaged(f"{self._features.name} is not an array of float32 with {self.width} columns")

    def _whole_rows(self) -> int:
        return max(self._features.stat().st_size - HEADER, 0) // (4 * self.width)

    def _release(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._database.execute("INSERT INTO free SELECT row FROM pictures WHERE name = ?", (name,))
            self._database.execute("DELETE FROM pictures WHERE name = ?", (name,))

    def _take_rows(self, count: int) -> list[int]:
        """Return unused rows: freed ones first, then new ones."""
        query = "SELECT max(row) FROM (SELECT max(row) AS row FROM pictures UNION ALL SELECT max(row) FROM free)"
        (last,) = self._database.execute(query).fetchone()
        rows = [row for (row,) in self._database.execute("SELECT row FROM free ORDER BY row LIMIT ?", (count,))]
        new = -1 if last is None else last
        if not isinstance(new, int) or new >= self._whole_rows() or min(rows, default=0) < 0:
            raise self._damaged(f"it counts more rows than {self._features.name} has")
        self._database.executemany("DELETE FROM free WHERE row = ?", [(row,) for row in rows])
        return rows + [new + 1 + i for i in range(count - len(rows))]

    def _write(self, rows: Sequence[int], features: np.ndarray) -> None:
        with open(self._features, "r+b") as file:
            for row, feature in zip(rows, features, strict=True):
                file.seek(HEADER + row * 4 * self.width)
                file.write(feature.tobytes())
            file.seek(0)
            file.write(header(self._whole_rows(), self.width))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Lock the index; commit, or roll back on an error."""
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(f"The index {self.path} cannot be used: {error}.") from None
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(f"The index {self.path} is damaged: {reason}; {REBUILD}.")


def header(rows: int, width: int) -> bytes:
    """Return the header of an `.npy` file of float32 (rows, width), 128 bytes for any number of rows."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
    assert file.tell() == HEADER
    return file.getvalue()


def indexed_folder(index: str | os.PathLike[str]) -> str:
    """Return the folder whose pictures an index holds. Raises `ValueError` for a folder that is no index."""
    path = Path(index) / DATABASE
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (found,) = database.execute("SELECT value FROM made WHERE name = 'folder'").fetchone()
        return os.fsdecode(found)
    except (sqlite3.Error, TypeError):
        raise ValueError(f"{index} is no index of pictures; make one with blip search --index {index}.") from None


def default_index(folder: str | os.PathLike[str], model: str) -> Path:
    """Return the default folder for the index of a folder's pictures by a model.

    It is in `search` of `cache_folder()`.
    """
    real = os.path.realpath(folder)
    digest = hashlib.blake2b(os.fsencode(real) + b"\0" + model.encode(), digest_size=8).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(real)).strip("-")[:40]
    return cache_folder() / "search" / "-".join(filter(None, (readable, digest)))


def delete_index(index: str | os.PathLike[str]) -> None:
    """Delete the files of an index, and nothing else in its folder."""
    index = Path(index)
    journal = f"{DATABASE}-journal"  # a killed run leaves it
    for name in (journal, DATABASE, "blip-features.npy", MIDDLES, CELL_OF):
        (index / name).unlink(missing_ok=True)
    for part in index.glob(f"{PARTS}/*/*.jsonl"):
        part.unlink(missing_ok=True)
