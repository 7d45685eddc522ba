"""A program that lists the datasets of an HDF5 file as JSON, in a process of its own.

libhdf5 follows whatever addresses a file contains and can crash on a damaged one. `keras_hdf5.py` runs this program
with limits on time and memory, checks the list against the size of the file, and reads the values itself.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import h5py
from h5py import h5d, h5g, h5l, h5o, h5s

MAX_DEPTH = 64
MAX_DATASETS = 100_000
MAX_MEMORY = 2 * 2**30


def listing(path: str) -> list[dict[str, Any]]:
    """Return name, shape, type, offset and size of all datasets. Raises `ValueError` if one is not in one piece."""
    datasets: list[dict[str, Any]] = []
    seen: set[Any] = set()

    def walk(group: Any, prefix: str, depth: int) -> None:
        address = h5o.get_info(group).addr
        if address in seen or depth > MAX_DEPTH or len(datasets) > MAX_DATASETS:
            raise ValueError(f"group {prefix!r} is linked in a circle or too large")
        seen.add(address)
        for name in group:
            here = prefix + name.decode("utf-8", "surrogateescape")
            if group.links.get_info(name).type != h5l.TYPE_HARD:
                raise ValueError(f"{here} is a link to elsewhere, which is not followed")
            entry = h5o.open(group, name)
            if isinstance(entry, h5g.GroupID):
                walk(entry, f"{here}/", depth + 1)
            elif isinstance(entry, h5d.DatasetID):
                datasets.append(describe(here, entry))
            else:
                raise ValueError(f"{here} is neither a group nor a dataset")

    with h5py.File(path, "r") as file:
        walk(h5o.open(file.id, b"/"), "", 0)
    return datasets


def describe(name: str, dataset: Any) -> dict[str, Any]:
    """Return the entry of one dataset."""
    stored = dataset.get_create_plist()
    if stored.get_external_count() or stored.get_layout() == h5d.VIRTUAL:
        raise ValueError(f"{name} has its values in another file, which is not opened")
    if stored.get_layout() == h5d.CHUNKED or dataset.get_space().get_simple_extent_type() == h5s.NULL:
        raise ValueError(f"{name} is not stored in one piece, as Keras stores weights")
    dtype = dataset.dtype.str
    if dtype == "|V2":  # how h5py stores ml_dtypes.bfloat16; Keras marks it
        dtype = "bfloat16"
    return {
        "name": name,
        "shape": [int(size) for size in dataset.shape],
        "dtype": dtype,
        "offset": dataset.get_offset(),
        "bytes": dataset.get_storage_size(),
    }


def limit_memory() -> None:
    """Limit the memory of this process, so that a file cannot make libhdf5 take too much."""
    try:
        import resource
    except ImportError:  # not on this system; the limit on time holds everywhere
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


if __name__ == "__main__":
    limit_memory()
    try:
        answer: dict[str, Any] = {"datasets": listing(sys.argv[1])}
    except Exception as error:  # the caller reports what is wrong with the file
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # an orderly exit of NumPy and libhdf5 would take a seventh of the whole time
