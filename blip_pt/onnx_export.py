"""Export to ONNX, for programs that have ONNX Runtime or OpenVINO but neither PyTorch nor this package.

The graphs of a folder hold no weights: they point into its `model.safetensors`, which all of them share.
"""

from __future__ import annotations

import inspect
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from blip_core.checkpoints.safetensors_file import read
from blip_core.checkpoints.shared_weights import SHARED, Place, shared_weights
from blip_core.parameters.graph_parts import INTEGERS, GraphPart, axis_sizes, graph_names, outputs_of, parts_of
from blip_pt.base import model_name
from blip_pt.onnx_int8 import round_products
from blip_pt.parts import Tensors, part_functions

OPSET = 18
EXAMPLE = {
    "pictures": 2, "image_tokens": 5, "texts": 4, "length": 3, "rows": 4, "new": 3, "capacity": 9, "states": 5,
}  # fmt: skip
"""Sizes of the free axes of the inputs with which graphs are traced; every one is free in the graph."""


class Part(nn.Module):
    """A part of a model as a module, with its inputs in the order of the table."""

    def __init__(self, model: nn.Module, part: GraphPart):
        super().__init__()
        self.model, self.part = model, part
        self.function: Callable[..., Tensors] = part_functions(model)[part.name]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.function(**dict(zip(self.part.inputs, given, strict=True))).values())


def example_inputs(part: GraphPart, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Inputs of a part with which it can be traced; `sizes` are those of the fixed axes."""
    sizes = {**EXAMPLE, "height": 64, "width": 64, **sizes}
    given = {name: torch.rand([sizes[axis] for axis in axes.split()]) for name, axes in part.inputs.items()}
    whole = {"length": 2, "rows": sizes["rows"], "capacity": sizes["capacity"]}
    return {
        name: torch.full_like(value, whole.get(name, 1), dtype=torch.int32) if name in INTEGERS else value
        for name, value in given.items()
    }


def export_onnx(model: Any, folder: Path, *, free_size: bool = False, weights: str = "") -> dict[str, str]:
    """Write a graph for each part of a float32 model into a folder that has its `model.safetensors`.

    Weights that are stored in half precision are converted where a graph begins; all is computed in float32.

    Args:
        model: The model; with `free_size` it is changed and must not be used any more.
        folder: Where to write.
        free_size: Whether the graphs take pictures of any size.
        weights: "int8" or "int8-dynamic" rounds the weights of products. They and all others are then in
            `weights.bin`, and `model.safetensors` is removed.

    Returns:
        The file of each part.
    """
    head = model_name(type(model))
    sizes = axis_sizes(head, model.config, free_size)
    if free_size:
        let_any_size(model)
    written, stored = {}, folder / "model.safetensors"
    with shared_weights(folder) if weights else nullcontext() as rounded:
        for part in parts_of(head):
            if not part.loop:
                graph = traced(Part(model, part), example_inputs(part, sizes), free_axes(part.inputs, sizes))
                name_tensors(graph, part, outputs_of(part, head), sizes)
                share_weights(graph, model, stored, weights, rounded)
                written[part.name] = f"{part.name}.onnx"
                onnx.save_model(graph, folder / written[part.name])
    if weights:
        stored.unlink()
    return written


def let_any_size(model: Any) -> None:
    """Make a model compute its position embeddings in the graph."""
    embeddings = getattr(model, "vision_model", model).embeddings
    embeddings.positions = partial(free_positions, embeddings)


def free_positions(embeddings: Any, height: int, width: int) -> Tensor:
    """As `VisionEmbeddings.positions`, but computed in the graph for whatever size the pictures have."""
    side, patch = embeddings.config.image_size // embeddings.config.patch_size, embeddings.config.patch_size
    grid = embeddings.position_embedding[0, 1:].reshape(side, side, -1)
    rows, columns = (bicubic_rows(side, size // patch) for size in (height, width))
    grid = torch.einsum("ij,kl,jlw->ikw", rows, columns, grid)
    return torch.cat([embeddings.position_embedding[:, :1], grid.flatten(0, 1)[None]], dim=1)  # (1, T, W)


def bicubic_rows(old: int, new: int, a: float = -0.75) -> Tensor:
    """As `bicubic_matrix`, (new, old), by operations that a graph can hold."""
    centre = (torch.arange(new) + 0.5) * (old / torch.tensor(new)) - 0.5
    taps = torch.floor(centre)[:, None] + torch.arange(-1, 3)  # (new, 4)
    x = (centre[:, None] - taps).abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    places = taps.clamp(0, old - 1)[..., None] == torch.arange(old)
    return (torch.where(x <= 1, near, far)[..., None] * places).sum(1)


def free_axes(inputs: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, dict[int, str]]:
    """The names of the free axes of tensors by their places, given all axes; `sizes` are those of the fixed ones."""
    axes = {name: enumerate(text.split()) for name, text in inputs.items()}
    return {name: {at: axis for at, axis in found if axis not in sizes} for name, found in axes.items()}


def traced(module: nn.Module, inputs: Mapping[str, Tensor], free: Mapping[str, Mapping[int, str]]) -> onnx.ModelProto:
    """A module as a graph whose weights are inputs, before which come the given ones; `free` are their free axes.

    By tracing, PyTorch's older exporter: on these models the newer one takes thirty times as long, too long for base
    size, and gives the same graph.
    """
    export: Any = torch.onnx.export
    newer = {"dynamo": False} if "dynamo" in inspect.signature(export).parameters else {}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of checks of sizes, which a graph leaves out, and of the older exporter
        export(
            module.eval(), tuple(inputs.values()), buffer, input_names=list(inputs), dynamic_axes=dict(free),
            opset_version=OPSET, export_params=False, do_constant_folding=False, **newer,
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def name_tensors(graph: onnx.ModelProto, part: GraphPart, outputs: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Name the outputs of a graph, and the free axes of inputs and outputs, as the table does."""
    found = graph.graph
    names = graph_names(part, outputs)
    renamed = dict(zip((output.name for output in found.output), names, strict=True))
    for node in found.node:
        for index, name in enumerate(node.output):
            node.output[index] = renamed.get(name, name)
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    del found.output[:]
    for name, axes in zip(names, outputs.values(), strict=True):
        shape = [sizes.get(axis, axis) for axis in axes.split()]
        found.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    del found.value_info[:]


def share_weights(
    graph: onnx.ModelProto, model: Any, path: Path, weights: str = "", rounded: Place | None = None
) -> None:
    """Make the weights of a graph point into a file of safetensors; those in half precision are converted first.

    With `rounded`, products take weights of 8 bits, in the way that `weights` names, and all are stored there.
    """
    stored, found = read(path), graph.graph
    rows = {id(model.get_tensor(row.name)): row.stored_as[0] for row in model.table()}
    named = dict(model.named_parameters(prefix="model", remove_duplicate=False))
    casts = []
    if rounded is not None:
        matrices = {value.name: named[value.name].detach().numpy() for value in found.input if value.name in named}
        for name, array in round_products(found, matrices, weights).items():
            found.initializer.append(
                numpy_helper.from_array(array, name)  # ONNX Runtime must know some before it reads the weights
                if array.size == 1
                else external(name, array.shape, array.dtype, SHARED, rounded(array.data))
            )
        graph.opset_import.add(domain="com.microsoft", version=1)
    used = {name for node in found.node for name in node.input}
    for value in [value for value in found.input if value.name in named]:
        found.input.remove(value)
        if value.name not in used:
            continue
        row = rows[id(named[value.name])]
        extent, kind = stored.extents[row], stored.dtypes[row]
        half = kind.name != "float32"
        name = f"{value.name}.half" if half else value.name
        place = (path.name, extent.offset)
        if rounded is not None:
            place = (SHARED, rounded(np.ascontiguousarray(stored[row]).data))
        found.initializer.append(external(name, extent.shape, kind, *place))
        if half:
            casts.append(helper.make_node("Cast", [name], [value.name], to=TensorProto.FLOAT))
    nodes = [*casts, *found.node]
    del found.node[:]
    found.node.extend(nodes)


def external(name: str, shape: Sequence[int], kind: np.dtype, file: str, offset: int) -> TensorProto:
    """A tensor whose values lie in a file beside the graph."""
    tensor = TensorProto(name=name, dims=shape, data_type=helper.np_dtype_to_tensor_dtype(kind))
    tensor.data_location = TensorProto.EXTERNAL
    size = math.prod(shape) * kind.itemsize
    for key, entry in {"location": file, "offset": offset, "length": size}.items():
        tensor.external_data.add(key=key, value=str(entry))
    return tensor
