"""Reading Keras HDF5 files as checkpoints with Hugging Face names and PyTorch's layout, and writing them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from blip_core.checkpoint import Checkpoint
from blip_core.saving import Stored, pieces
from blip_core.weights import MODELS, TO_TENSORFLOW, Parameter
from conversion.hdf5 import Hdf5File
from conversion.keras_names import KERAS2, hf_names, keras2_name, keras3_paths

NOT_WEIGHTS = re.compile(r"(^|/)(optimizer|_loss_tracker|seed_generator)/")
"""What Keras saves with the weights of a model that was trained."""


class KerasCheckpoint(Checkpoint):
    """An HDF5 file of Keras: `tf_model.h5` of transformers or `.weights.h5` of our models.

    Tensors come as views of the mapped file. Datasets that are of no BLIP model keep their name.
    """

    def __init__(self, path: Path):
        self._file = Hdf5File(path)
        keras3 = any("vars" in name.split("/") for name in self._file.shapes)
        found = _keras3_tensors(self._file.shapes) if keras3 else _keras2_tensors(self._file.shapes)
        self._places = {name: (dataset, layout) for dataset, layout, names in found for name in names}
        if len(self._places) < sum(len(names) for *_, names in found):
            raise ValueError(f"{path} holds a tensor twice.")
        shapes = {name: self[name].shape for name in self._places}
        dtypes = {name: self._file.dtypes[dataset] for name, (dataset, _) in self._places.items()}
        super().__init__(path, "weights.h5" if keras3 else "tf_model.h5", shapes, dtypes)

    def __getitem__(self, name: str) -> np.ndarray:
        dataset, layout = self._places[name]
        array = self._file[dataset]
        axes = TO_TENSORFLOW.get(layout, ())
        return array.transpose(np.argsort(axes)) if len(axes) == array.ndim and axes else array


Found = list[tuple[str, str, list[str]]]  # datasets, each with its layout and Hugging Face names


def _keras2_tensors(datasets: Iterable[str]) -> Found:
    found: Found = []
    for dataset in datasets:
        steps = dataset.split("/")[2:]  # after the group of the layer and the name of the model
        name = "/".join(steps[1:] if steps[:1] == ["blip"] else steps)
        layer = re.search(r"_\._(\d+)/", name)
        hf, layout = KERAS2.get(re.sub(r"_\._\d+/", "_._{}/", name), (dataset, "plain"))
        found.append((dataset, layout, [hf.format(layer[1]) if layer else hf]))
    return found


def _keras3_tensors(datasets: Iterable[str]) -> Found:
    names = [name for name in datasets if not NOT_WEIGHTS.search(name)]
    patterns = {name: re.sub(r"(vision|text)_block(_\d+)?/", r"\1_block{}/", name) for name in names}
    present = set(patterns.values())
    paths = min((keras3_paths(model) for model in MODELS), key=lambda paths: len(paths.keys() ^ present))
    found: Found = []
    for dataset, pattern in patterns.items():
        if pattern not in paths:
            found.append((dataset, "plain", [dataset]))
            continue
        part, row = paths[pattern]
        block = re.search(r"(?:vision|text)_block(?:_(\d+))?/", dataset)
        layer = (block[1] or "0") if block else None
        copies = [part.copies + row.hf] * bool(part.copies)
        found.append((dataset, row.layout, [n.format(layer) for n in (part.prefixes[0] + row.hf, *copies)]))
    return found


Tensors = Sequence[tuple[Parameter, Stored]]


def write_keras(path: Path, model: str, tensors: Tensors) -> None:
    """Write the weights of a model as `tf_model.h5` or `.weights.h5`, by the name of the file."""
    (_write_keras2 if path.name == "tf_model.h5" else _write_keras3)(path, model, tensors)


def _write_keras2(path: Path, model: str, tensors: Tensors) -> None:
    """As transformers' TensorFlow models read it; bfloat16 is not possible there."""
    snake = "tf_" + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", model).lower()
    layers: dict[str, list[str]] = {}
    with h5py.File(path, "w") as file:
        for parameter, tensor in tensors:
            for hf, layout in hf_names(parameter.part, parameter.row):
                name = keras2_name(hf, layout).format(parameter.layer)
                name = f"blip/{name}" if model == "BlipModel" else name
                layer = name.split("/")[0]
                layers.setdefault(layer, []).append(f"{snake}/{name}")
                _write(file, f"{layer}/{snake}/{name}", tensor.read(), layout)
        file.attrs["layer_names"] = list(layers)
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "2.15.0"
        for layer, names in layers.items():
            file[layer].attrs["weight_names"] = names


def _write_keras3(path: Path, model: str, tensors: Tensors) -> None:
    """As `save_weights` of our TensorFlow models writes it."""
    paths = {(part.prefix, row.name): path for path, (part, row) in keras3_paths(model).items()}
    with h5py.File(path, "w") as file:
        for parameter, tensor in tensors:
            number = f"_{parameter.layer}" if parameter.layer else ""
            name = paths[parameter.part.prefix, parameter.row.name].format(number)
            _write(file, name, tensor.read(), parameter.row.layout)
            if tensor.dtype == ml_dtypes.bfloat16:
                file[name].attrs["dtype"] = "bfloat16"


def _write(file: h5py.File, name: str, array: np.ndarray, layout: str) -> None:
    axes = TO_TENSORFLOW.get(layout, ())
    array = array.transpose(axes) if axes and array.ndim == len(axes) else array
    dataset = file.create_dataset(name, array.shape, array.dtype)
    begin = 0
    for piece in pieces(array):
        dataset[begin : begin + len(piece)] = piece
        begin += len(piece)
