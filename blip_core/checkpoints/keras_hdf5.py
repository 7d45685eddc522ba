"""Keras HDF5 files: `tf_model.h5` of transformers (Keras 2) and `.weights.h5` of our TensorFlow models (Keras 3)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from blip_core.checkpoints.checkpoint import Extent, MappedCheckpoint, check_extents, shown_as_pytorch
from blip_core.checkpoints.hdf5_listing import listing
from blip_core.checkpoints.keras_names import KERAS2, hf_names, keras2_name, keras3_paths
from blip_core.checkpoints.writing import About, LazyTensor, write_tensors
from blip_core.parameters.heads import HEADS
from blip_core.parameters.models import TO_TENSORFLOW

PROGRAM = Path(__file__).with_name("hdf5_listing.py")
SECONDS = 60
DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
NOT_WEIGHTS = re.compile(r"(^|/)(optimizer|_loss_tracker|seed_generator)/")
"""What Keras saves with the weights of a model that was trained."""

Placed = Iterator[tuple[str, str, list[str]]]  # a dataset, its layout, and its Hugging Face names


def read(path: Path) -> MappedCheckpoint:
    """Open a file of either Keras.

    Datasets that no BLIP model has keep their name. Raises `ValueError` for a file that is damaged, has links to
    elsewhere, or storage that Keras never uses (chunks, compression, other files).
    """
    return _open(path, _list(path))


def read_own(path: Path) -> MappedCheckpoint:
    """As `read`, for a file that this process wrote: without a process of its own to list it, which takes 0.1 s."""
    return _open(path, listing(str(path)))


def _open(path: Path, datasets: Iterable[dict[str, Any]]) -> MappedCheckpoint:
    extents = {}
    for entry in datasets:
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{path}: {entry['name']} is of type {entry['dtype']}, which no BLIP model has.")
        extents[entry["name"]] = Extent(tuple(entry["shape"]), dtype, entry["offset"] or 0, entry["bytes"])
    check_extents(path, path.stat().st_size, extents)
    keras3 = any("vars" in name.split("/") for name in extents)
    placed = _keras3_tensors(extents) if keras3 else _keras2_tensors(extents)
    return MappedCheckpoint(path, "weights.h5" if keras3 else "tf_model.h5", shown_as_pytorch(path, extents, placed))


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
    datasets: list[dict[str, Any]] = answer["datasets"]
    return datasets


def _keras2_tensors(datasets: Iterable[str]) -> Placed:
    for dataset in datasets:
        steps = dataset.split("/")[2:]  # after the group of the layer and the name of the model
        name = "/".join(steps[1:] if steps[:1] == ["blip"] else steps)
        layer = re.search(r"_\._(\d+)/", name)
        hf, layout = KERAS2.get(re.sub(r"_\._\d+/", "_._{}/", name), (dataset, "plain"))
        yield dataset, layout, [hf.format(layer[1]) if layer else hf]


def _keras3_tensors(datasets: Iterable[str]) -> Placed:
    names = [name for name in datasets if not NOT_WEIGHTS.search(name)]
    patterns = {name: re.sub(r"(vision|text)_layer(_\d+)?/", r"\1_layer{}/", name) for name in names}
    present = set(patterns.values())
    layouts = [(row.name, False) for row in HEADS.values()] + [(row.name, True) for row in HEADS.values() if row.state]
    paths = min((keras3_paths(*layout) for layout in layouts), key=lambda paths: len(paths.keys() ^ present))
    for dataset, pattern in patterns.items():
        if pattern in paths:
            part, row = paths[pattern]
            numbered = re.search(r"(?:vision|text)_layer(?:_(\d+))?/", dataset)
            layer = (numbered[1] or "0") if numbered else None
            yield dataset, row.layout, [name.format(layer) for name in part.saved_names(row)]
        else:
            yield dataset, "plain", [dataset]


def arrange_keras2(tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
    """Name the tensors as `read` will show them: the vocabulary projection's weight a second time."""
    arranged = []
    for tensor in tensors:
        part, row, layer = tensor.row.part, tensor.row.row, tensor.row.layer
        arranged.append(replace(tensor, names=tuple(name.format(layer) for name, _ in hf_names(part, row))))
    return arranged


Places = Iterator[tuple[h5py.Dataset, LazyTensor, str]]  # each with its tensor and layout


def write_keras2(path: Path, tensors: Sequence[LazyTensor], about: About) -> None:
    """Write a `tf_model.h5`."""
    _write(path, tensors, about, _keras2_places)


def write_keras3(path: Path, tensors: Sequence[LazyTensor], about: About) -> None:
    """Write a `.weights.h5`."""
    _write(path, tensors, about, _keras3_places)


def _write(path: Path, tensors: Sequence[LazyTensor], about: About, allocate: Callable[..., Places]) -> None:
    with h5py.File(path, "w") as file:
        places = allocate(file, about.head, tensors)
        offsets = [(dataset.id.get_offset(), _to_tensorflow(tensor, layout)) for dataset, tensor, layout in places]
    # Not by libhdf5, which takes twice as long. A scalar is written already, and has no offset.
    write_tensors(path, [(offset, tensor) for offset, tensor in offsets if offset is not None])


def _keras2_places(file: h5py.File, model: str, tensors: Sequence[LazyTensor]) -> Places:
    """Allocate every tensor where transformers' TensorFlow models look for it; bfloat16 is not possible there."""
    snake = "tf_" + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", model).lower()
    layers: dict[str, list[str]] = {}
    for tensor in tensors:
        parameter = tensor.row
        for hf, layout in hf_names(parameter.part, parameter.row):
            name = HEADS[model].keras2_root + keras2_name(hf, layout).format(parameter.layer)
            layer = name.split("/")[0]
            layers.setdefault(layer, []).append(f"{snake}/{name}")
            yield _allocate(file, f"{layer}/{snake}/{name}", tensor, layout), tensor, layout
    file.attrs["layer_names"] = list(layers)
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "2.15.0"
    for layer, names in layers.items():
        file[layer].attrs["weight_names"] = names


def _keras3_places(file: h5py.File, model: str, tensors: Sequence[LazyTensor]) -> Places:
    """Allocate every tensor where `load_weights` of our TensorFlow models looks for it."""
    with_state = any(tensor.row.part.state for tensor in tensors)
    paths = {(part.prefix, row.name): path for path, (part, row) in keras3_paths(model, with_state).items()}
    for tensor in tensors:
        parameter = tensor.row
        number = f"_{parameter.layer}" if parameter.layer else ""
        name = paths[parameter.part.prefix, parameter.row.name].format(number)
        dataset = _allocate(file, name, tensor, parameter.row.layout)
        if tensor.dtype == ml_dtypes.bfloat16:
            dataset.attrs["dtype"] = "bfloat16"
        yield dataset, tensor, parameter.row.layout


def _allocate(file: h5py.File, name: str, tensor: LazyTensor, layout: str) -> h5py.Dataset:
    if not tensor.shape:
        return file.create_dataset(name, data=tensor.read())
    # By h5py's low-level calls: `create_dataset` for all tensors would take longer than writing a tenth of them.
    storage, groups = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5p.create(h5py.h5p.LINK_CREATE)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    groups.set_create_intermediate_group(True)
    groups.set_char_encoding(h5py.h5t.CSET_UTF8)
    kind = h5py.h5t.py_create(tensor.dtype, logical=True)
    space = h5py.h5s.create_simple(_to_tensorflow(tensor, layout).shape)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=storage, lcpl=groups))


def _to_tensorflow(tensor: LazyTensor, layout: str) -> LazyTensor:
    """Return the same tensor in TensorFlow's layout."""
    if layout not in TO_TENSORFLOW:
        return tensor
    axes = TO_TENSORFLOW[layout]
    shape = tuple(tensor.shape[axis] for axis in axes)
    return replace(tensor, shape=shape, read=lambda: tensor.read().transpose(axes))
