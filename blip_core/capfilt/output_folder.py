"""The output folder of CapFilt: shards that are whole or absent, and the settings of the run.

OUTPUT/scored/00000.jsonl     captions and scores of a shard, until all shards are scored and what is kept is decided
OUTPUT/kept/00000.jsonl       a line for each picture with what was kept, which `blip train` reads as it is; or
                              00000.parquet or 00000.tar, which hold the pictures, too
OUTPUT/kept/00000/            the kept pictures of 00000.jsonl that lay in tar or Parquet files
OUTPUT/features/00000.npy     with near-duplicates dropped: features of a shard's pictures, float16 (pictures, F)
OUTPUT/cells.npy              of very many pictures: middles of cells of features, float32 (cells, F)
OUTPUT/dropped/00000.jsonl    a line for each caption and picture that was dropped, and why
OUTPUT/dropped/input.jsonl    input entries that could not be used
OUTPUT/listed/00000.jsonl     of a streamed input: the pictures of a file, see `streaming`
OUTPUT/capfilt.json           the settings and input of the run
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.capfilt.items import Item, Line
from blip_core.capfilt.writers import FORMS, read_lines
from blip_core.files import shared_path, write_lines
from blip_core.inference.cells import find_cells
from blip_core.jobs.sharding import Shard, begin_run, clean, writing
from blip_core.stores import StoreError, to_path

RUN, DRY_RUN, INPUT = "capfilt.json", "dry-run", "input.jsonl"


class OutputFolder:
    """The folder of a run, which resumes where an earlier one was stopped.

    Several processes on several machines may write to it at once: files of one name have the same content. It may be
    the address of a folder in a store, where a file appears when it is whole.
    """

    def __init__(self, path: str | Path, to: str = "jsonl", with_features: bool = False):
        self.path, self.form, self.with_features = to_path(path).expanduser(), FORMS[to], with_features
        folders = ("scored", "features", "kept", "dropped")
        self.scored, self.features, self.kept, self.dropped = (self.path / name for name in folders)

    def begin(self, run: Mapping[str, Any]) -> None:
        """Begin a run with these facts, or resume it.

        Raises `ValueError` for a folder of another run, naming the difference, and for one of other files; `OSError`
        where it cannot be written.
        """
        begin_run(self.path, RUN, run, allowed=[DRY_RUN])

    def write_problems(self, problems: Iterable[Line]) -> None:
        """Write the input entries that cannot be used. Raises `OSError`."""
        with writing(self.path):
            if not (self.dropped / INPUT).exists():
                write_lines(self.dropped / INPUT, problems)

    def has(self, shard: str) -> bool:
        """Say whether a shard is scored; it may be decided as well."""
        return self._lines(self.scored, shard).exists() or self.has_decided(shard)

    def has_decided(self, shard: str) -> bool:
        """Say whether a shard is decided: its kept captions are written last."""
        return self._kept(shard).exists()

    def write_scored(self, shard: str, lines: Sequence[Line], features: np.ndarray) -> None:
        """Write the captions and scores of a shard."""
        try:
            with writing(self.path):
                if self.with_features:
                    with shared_path(self._features(shard)) as temporary, open(temporary, "wb") as file:
                        np.save(file, features)
                write_lines(self._lines(self.scored, shard), lines)
        except OSError:
            if not self.has(shard):  # otherwise another process has written the same, and cleaned up meanwhile
                raise

    def read_features(self, shard: str) -> np.ndarray:
        """Return the features of a shard's pictures, float16 (pictures, F). Raises `ValueError` where they are damaged.

        Features are kept: a recomputed shard is compared with all others.
        """
        remedy = f"remove scored/{shard}.jsonl and kept/{self._kept(shard).name}"
        return self._array(self._features(shard), remedy)

    @staticmethod
    def _array(path: Path, remedy: str) -> np.ndarray:
        """Read an array. Raises `ValueError` for a damaged one, naming the remedy."""
        try:
            with path.open("rb") as file:
                found: np.ndarray = np.load(file, allow_pickle=False)
            return found
        except StoreError:
            raise
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); {remedy} and run again to rebuild it.") from None

    def cells(self, features: np.ndarray) -> np.ndarray:
        """Return the middles of the cells in which look-alikes are looked for, and find them where no process has.

        `features` are those of all pictures, (pictures, F). Raises `ValueError` where the file is damaged.
        """
        path = self.path / "cells.npy"
        if not path.exists():
            found = find_cells(features, "Looking for near-duplicates in cells")
            with writing(self.path), shared_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, found)
        middles = self._array(path, "remove it")
        if middles.dtype != np.float32 or middles.ndim != 2 or middles.shape[1] != features.shape[1]:
            raise ValueError(
                f"{path} has no cells of {features.shape[1]} values; remove it and run again to rebuild it."
            )
        return middles

    def read_scored(self, shard: str) -> list[Line]:
        """Return the scored lines of a shard. Raises `FileNotFoundError` where it is decided already."""
        return read_lines(self._lines(self.scored, shard))

    def write(self, shard: Shard[Item], kept: Sequence[Line], dropped: Sequence[Line]) -> None:
        """Write the decided lines of a shard, and remove its scores."""
        with writing(self.path):
            write_lines(self._lines(self.dropped, shard.name), dropped)
            self.form.write(self._kept(shard.name), kept, {item.key: item for item in shard.items})
            self._lines(self.scored, shard.name).unlink(missing_ok=True)

    def read(self, shard: str) -> tuple[list[Line], list[Line]]:
        """Return the kept and the dropped lines of a shard."""
        return self.form.read(self._kept(shard)), read_lines(self._lines(self.dropped, shard))

    def clean(self) -> None:
        """Remove what killed processes left, once all is done."""
        clean(self.path)
        with suppress(OSError):  # another process may have begun a shard that was done
            self.scored.rmdir()

    def problems(self) -> list[Line]:
        """Return the input entries that could not be used."""
        return read_lines(self.dropped / INPUT)

    def _kept(self, shard: str) -> Path:
        path: Path = self.kept / f"{shard}{self.form.suffix}"
        return path

    def _features(self, shard: str) -> Path:
        path: Path = self.features / f"{shard}.npy"
        return path

    @staticmethod
    def _lines(folder: Path, shard: str) -> Path:
        return folder / f"{shard}.jsonl"
