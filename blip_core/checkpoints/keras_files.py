"""Reading Keras HDF5 files as checkpoints with Hugging Face names and PyTorch's layout, and writing them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import ml_dtypes

from blip_core.checkpoints.hdf5 import hdf5_extents
from blip_core.checkpoints.keras_names import KERAS2, hf_names, keras2_name, keras3_paths
from blip_core.checkpoints.mapped import Placed, TensorFlowCheckpoint
from blip_core.checkpoints.saving import Stored, write_tensors
from blip_core.parameters.models import MODELS, TO_TENSORFLOW, TRAINING_STATE, Parameter

NOT_WEIGHTS = re.compile(r"(^|/)(optimizer|_loss_tracker|seed_generator)/")
"""What Keras saves with the weights of a model that was trained."""


def open_keras(path: Path, *, own: bool = False) -> TensorFlowCheckpoint:
    """Open an HDF5 file of Keras: `tf_model.h5` of transformers or `.weights.h5` of our models.

    Datasets that are of no BLIP model keep their name. `own` says that this process wrote the file.
    Raises `ValueError` for a file that is damaged or hostile.
    """
    extents = hdf5_extents(path, own=own)
    keras3 = any("vars" in name.split("/") for name in extents)
    placed = _keras3_tensors(extents) if keras3 else _keras2_tensors(extents)
    return TensorFlowCheckpoint(path, "weights.h5" if keras3 else "tf_model.h5", path, extents, placed)


def _keras2_tensors(datasets: Iterable[str]) -> Iterator[Placed]:
    for dataset in datasets:
        steps = dataset.split("/")[2:]  # after the group of the layer and the name of the model
        name = "/".join(steps[1:] if steps[:1] == ["blip"] else steps)
        layer = re.search(r"_\._(\d+)/", name)
        hf, layout = KERAS2.get(re.sub(r"_\._\d+/", "_._{}/", name), (dataset, "plain"))
        yield Placed(dataset, layout, [hf.format(layer[1]) if layer else hf])


def _keras3_tensors(datasets: Iterable[str]) -> Iterator[Placed]:
    names = [name for name in datasets if not NOT_WEIGHTS.search(name)]
    patterns = {name: re.sub(r"(vision|text)_block(_\d+)?/", r"\1_block{}/", name) for name in names}
    present = set(patterns.values())
    layouts = [(model, False) for model in MODELS] + [(model, True) for model in TRAINING_STATE]
    paths = min((keras3_paths(*layout) for layout in layouts), key=lambda paths: len(paths.keys() ^ present))
    for dataset, pattern in patterns.items():
        if pattern in paths:
            part, row = paths[pattern]
            block = re.search(r"(?:vision|text)_block(?:_(\d+))?/", dataset)
            layer = (block[1] or "0") if block else None
            yield Placed(dataset, row.layout, [name.format(layer) for name in part.saved_names(row)])
        else:
            yield Placed(dataset, "plain", [dataset])


Tensors = Sequence[tuple[Parameter, Stored]]


def write_keras(path: Path, model: str, tensors: Tensors) -> None:
    """Write the weights of a model as `tf_model.h5` or `.weights.h5`, by the name of the file."""
    keras2 = path.name == "tf_model.h5"
    with h5py.File(path, "w") as file:
        places = list((_keras2_places if keras2 else _keras3_places)(file, model, tensors))
        rooms = [(room.id.get_offset(), _to_tensorflow(stored, layout)) for room, stored, layout in places]
    # Not through libhdf5, which takes twice as long. A single number is there already, and has no offset.
    write_tensors(path, [(offset, stored) for offset, stored in rooms if offset is not None])


Places = Iterator[tuple[h5py.Dataset, Stored, str]]  # each with its tensor and layout


def _keras2_places(file: h5py.File, model: str, tensors: Tensors) -> Places:
    """Make room for every tensor where transformers' TensorFlow models look for it; bfloat16 is not possible there."""
    snake = "tf_" + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", model).lower()
    layers: dict[str, list[str]] = {}
    for parameter, stored in tensors:
        for hf, layout in hf_names(parameter.part, parameter.row):
            name = keras2_name(hf, layout).format(parameter.layer)
            name = f"blip/{name}" if model == "BlipModel" else name
            layer = name.split("/")[0]
            layers.setdefault(layer, []).append(f"{snake}/{name}")
            yield _make_room(file, f"{layer}/{snake}/{name}", stored, layout), stored, layout
    file.attrs["layer_names"] = list(layers)
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "2.15.0"
    for layer, names in layers.items():
        file[layer].attrs["weight_names"] = names


def _keras3_places(file: h5py.File, model: str, tensors: Tensors) -> Places:
    """Make room for every tensor where `load_weights` of our TensorFlow models looks for it."""
    with_state = any(parameter.part in TRAINING_STATE.get(model, ()) for parameter, _ in tensors)
    paths = {(part.prefix, row.name): path for path, (part, row) in keras3_paths(model, with_state).items()}
    for parameter, stored in tensors:
        number = f"_{parameter.layer}" if parameter.layer else ""
        name = paths[parameter.part.prefix, parameter.row.name].format(number)
        dataset = _make_room(file, name, stored, parameter.row.layout)
        if stored.dtype == ml_dtypes.bfloat16:
            dataset.attrs["dtype"] = "bfloat16"
        yield dataset, stored, parameter.row.layout


def _make_room(file: h5py.File, name: str, stored: Stored, layout: str) -> h5py.Dataset:
    if not stored.shape:
        return file.create_dataset(name, data=stored.read())
    # Through h5py's lower level, as `create_dataset` takes longer for all tensors than the disk for a tenth of them.
    room, groups = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5p.create(h5py.h5p.LINK_CREATE)
    room.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    room.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    groups.set_create_intermediate_group(True)
    groups.set_char_encoding(h5py.h5t.CSET_UTF8)
    kind = h5py.h5t.py_create(stored.dtype, logical=True)
    space = h5py.h5s.create_simple(_to_tensorflow(stored, layout).shape)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=room, lcpl=groups))


def _to_tensorflow(stored: Stored, layout: str) -> Stored:
    """The same tensor in TensorFlow's layout."""
    if layout not in TO_TENSORFLOW:
        return stored
    axes = TO_TENSORFLOW[layout]
    shape = tuple(stored.shape[axis] for axis in axes)
    return Stored(stored.names, shape, stored.dtype, lambda: stored.read().transpose(axes))
