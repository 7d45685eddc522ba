"""Reading HDF5 files of Keras, one dataset at a time out of the mapped file, whatever the file contains."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SECONDS = 60
DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


class Hdf5File:
    """The datasets of an HDF5 file by path: shapes, types, and values as views of the mapped file.

    Raises `ValueError` for a damaged file, links to elsewhere, datasets that overlap, and storage that Keras never
    uses (chunks, compression, other files).
    """

    def __init__(self, path: Path):
        self.path = path
        entries = _list(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self._offsets: dict[str, int] = {}
        self._bytes = np.memmap(path, mode="c")
        end = 0
        for entry in sorted(entries, key=lambda entry: entry["offset"] or 0):
            name, shape, dtype = entry["name"], tuple(entry["shape"]), DTYPES.get(entry["dtype"])
            if dtype is None:
                raise ValueError(f"{path}: {name} is of type {entry['dtype']}, which no BLIP model has.")
            size, offset = math.prod(shape) * dtype.itemsize, entry["offset"] or 0
            if size and (offset < end or entry["bytes"] != size or offset + size > self._bytes.size):
                raise ValueError(f"{path} is damaged: {name} does not lie where it should; download it again.")
            end = max(end, offset + size)
            self.shapes[name], self.dtypes[name], self._offsets[name] = shape, dtype, offset

    def __getitem__(self, name: str) -> np.ndarray:
        shape, dtype, offset = self.shapes[name], self.dtypes[name], self._offsets[name]
        raw = self._bytes[offset : offset + math.prod(shape) * dtype.itemsize]
        return np.asarray(raw).view(dtype).reshape(shape)


def _list(path: Path) -> list[dict[str, Any]]:
    program = str(Path(__file__).with_name("hdf5_listing.py"))
    command = [sys.executable, "-P", program, str(path.absolute())]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, env=one_thread, check=False)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        answer = {"error": f"it could not be listed in {SECONDS} seconds"}
    except ValueError:  # the program crashed
        answer = {"error": "libhdf5 failed on it"}
    if "error" in answer:
        raise ValueError(f"{path} is not a whole HDF5 file of weights ({answer['error']}); download it again.")
    return answer["datasets"]
