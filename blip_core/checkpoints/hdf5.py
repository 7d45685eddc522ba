"""Where the datasets of an HDF5 file lie, whatever the file contains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from blip_core.checkpoints.hdf5_listing import listing
from blip_core.checkpoints.mapped import Extent

PROGRAM = Path(__file__).with_name("hdf5_listing.py")
SECONDS = 60
DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


def hdf5_extents(path: Path, *, own: bool = False) -> dict[str, Extent]:
    """Shape, type and place of every dataset by path.

    A file of our `own` making is listed in this process, which is faster by the start of another. Raises `ValueError`
    for a damaged file, links to elsewhere, and storage that Keras never uses (chunks, compression, other files).
    """
    extents = {}
    for entry in listing(str(path)) if own else _list(path):
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{path}: {entry['name']} is of type {entry['dtype']}, which no BLIP model has.")
        extents[entry["name"]] = Extent(tuple(entry["shape"]), dtype, entry["offset"] or 0, entry["bytes"])
    return extents


def _list(path: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", str(PROGRAM), str(path.absolute())]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, env=one_thread, check=False)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        answer = {"error": f"it could not be listed in {SECONDS} seconds"}
    except ValueError:  # the program crashed
        answer = {"error": "libhdf5 failed on it"}
    if "error" in answer:
        raise ValueError(f"{path} is not a whole HDF5 file of weights ({answer['error'][:200]}); download it again.")
    return answer["datasets"]
