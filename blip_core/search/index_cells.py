"""The cells of an index: which features are alike, so that of very many only those near a query are compared with it.

`blip-cells.npy` has the middles of the cells, float32 (cells, width), and `blip-cell-of.npy` the cell of each row of
the features, int32 (rows,). What was written since has -1, or lies behind the end, and is compared with every query.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blip_core.files import atomic_path
from blip_core.inference.cells import find_cells, nearest_cells, normalised

MIDDLES, CELL_OF = "blip-cells.npy", "blip-cell-of.npy"
PROBES = 64
"""Cells whose pictures are compared with a query."""
UNKNOWN = 0.1
"""The share of pictures in no cell beyond which cells are found anew."""


class IndexCells:
    """The cells of the index in a folder, whose features have `width` values."""

    def __init__(self, path: Path, width: int):
        self.path, self.width = path, width

    def divide(self, features: np.ndarray) -> None:
        """Divide features into cells. Raises `ValueError` where FAISS is not installed, `OSError`."""
        middles = find_cells(features, "Searching in cells")
        found = nearest_cells(features, middles, 1)[:, 0]
        self.forget()
        for name, array in ((MIDDLES, middles), (CELL_OF, found)):
            with atomic_path(self.path / name) as temporary, open(temporary, "wb") as file:
                np.save(file, array)

    def forget(self, rows: np.ndarray | None = None) -> None:
        """Forget the cells of rows that are written now; of all unless given."""
        path = self.path / CELL_OF
        if rows is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            try:
                known = np.load(path, mmap_mode="r+", allow_pickle=False)
                known[rows[rows < len(known)]] = -1
                known.flush()
            except (OSError, ValueError, EOFError, TypeError, IndexError):  # damaged: found anew by the next search
                path.unlink(missing_ok=True)

    def read(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the middles and the cell of each row, None where there are none that can be used."""
        try:
            middles = np.load(self.path / MIDDLES, mmap_mode="r", allow_pickle=False)
            cells = np.load(self.path / CELL_OF, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = middles.dtype == np.float32 and middles.ndim == 2 and middles.shape[1] == self.width
        return (np.array(middles), np.array(cells)) if fits and cells.dtype == np.int32 and cells.ndim == 1 else None

    def outdated(self, rows: np.ndarray) -> bool:
        """Say whether so many of these rows are in no cell that the cells are to be found anew."""
        found = self.read()
        if found is None:
            return True
        known = self._cell_of(rows, found[1])
        return bool((known < 0).mean() > UNKNOWN)

    def near(self, queries: np.ndarray, rows: np.ndarray, least: int) -> np.ndarray:
        """Return those of `rows`, which increase, that may be near one of the queries; at least `least`, or all.

        Queries are (Q, width); rows that are in no cell are always among them.
        """
        if (found := self.read()) is None:
            return rows
        middles, cells = found
        known, probes = self._cell_of(rows, cells), PROBES
        while True:
            wanted = np.zeros(len(middles) + 1, bool)
            wanted[nearest_cells(normalised(queries), middles, probes)] = True
            wanted[-1] = True  # where -1 points to
            near = rows[wanted[np.where(known < len(middles), known, -1)]]
            if len(near) >= least or probes >= len(middles):
                return near if len(near) >= least else rows
            probes *= 2

    @staticmethod
    def _cell_of(rows: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """The cell of each row, -1 where it is in none."""
        inside = rows < len(cells)
        found = np.full(len(rows), -1, np.int64)
        found[inside] = cells[rows[inside]]
        found[found < 0] = -1
        return found
