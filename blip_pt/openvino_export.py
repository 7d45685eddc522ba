"""Export to OpenVINO's own form of graphs (IR), by way of ONNX."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino
from openvino import opset13 as opset

from blip_core.checkpoints.shared_weights import Place, shared_weights
from blip_core.parameters.graph_parts import PARTS, graph_names
from blip_pt.onnx_export import export_onnx


def export_openvino(model: Any, folder: Path, *, free_size: bool = False, weights: str = "") -> dict[str, str]:
    """Write a graph `PART.xml` for each part of a float32 model, and the weights of all into `weights.bin`.

    Args:
        model: The model; with `free_size` it is changed and must not be used any more.
        folder: Where to write; it has the model's `model.safetensors`, which is removed.
        free_size: Whether the graphs take pictures of any size.
        weights: "int8" for weights that NNCF rounds to 8 bits; "" for the type of `model.safetensors`.

    Returns:
        The file of each part.
    """
    graphs, written = export_onnx(model, folder, free_size=free_size), {}
    with shared_weights(folder) as place:
        for part, file in graphs.items():
            written[part] = f"{part}.xml"
            graph = openvino.Core().read_model(folder / file)
            join_transposes(graph)
            save(compressed(graph) if weights else graph, folder / written[part], place)
            (folder / file).unlink()
    (folder / "model.safetensors").unlink()
    return written


def join_transposes(graph: Any) -> None:
    """Let products take matrices as they are stored (outputs, inputs): ONNX has a product of the transposed one alone.

    NNCF rounds only matrices that go straight into a product, and OpenVINO would do the same when it loads the graph.
    """
    for node in graph.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        turned = node.input_value(1).get_node()
        shape = turned.output(0).partial_shape
        if turned.get_type_name() == "Transpose" and shape.is_static and len(shape) == 2:
            product = opset.matmul(node.input_value(0), turned.input_value(0), False, True)
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(product.output(0))


def compressed(graph: Any) -> Any:
    """The graph with matrices of int8, a range for each of their rows, by NNCF."""
    os.environ["NNCF_CI"] = "1"  # looked at when NNCF is imported: otherwise it reports its use to its makers
    import nncf

    nncf.set_log_level("ERROR")
    with redirect_stdout(io.StringIO()):  # a bar of its progress
        return nncf.compress_weights(graph)


def save(graph: Any, path: Path, place: Place) -> None:
    """Write the graph of a part, whose constants lie in the file that all graphs share."""
    own = path.with_suffix(".bin")
    openvino.serialize(graph, path, own)
    values = np.fromfile(own, np.uint8)
    tree, part = ElementTree.parse(path), PARTS[path.stem]
    known = {*part.inputs, *graph_names(part, part.outputs)}
    for port in tree.iter("port"):  # outputs have second names, of tensors inside
        names = [name for name in port.attrib.pop("names", "").split(",") if name in known]
        port.attrib |= {"names": names[0]} if names else {}
    for constant in tree.iter("layer"):
        data = constant.find("data")
        if constant.get("type") == "Const" and data is not None:
            begin, size = int(data.attrib["offset"]), int(data.attrib["size"])
            data.set("offset", str(place(values[begin : begin + size])))
    tree.write(path)
    own.unlink()
