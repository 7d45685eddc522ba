"""Products with weights of 8 bits in ONNX graphs.

In both ways each text is computed in a batch as it would be alone, as what weights are multiplied by is rounded row by
row when it comes. All is uint8 with 128 for 0: products of uint8 with int8 overflow on processors without instructions
for them.

Shapes: N outputs and K inputs of a product, B blocks of a row of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

BLOCK = 32
"""How many weights of a row share a scale in `int8`."""
ZERO, GREATEST = 128, 127
SMALLEST = 1e-20
"""The least that a greatest value is taken for, so that nothing is divided by 0."""
Arrays = dict[str, np.ndarray]
Node = tuple[str, list[str], str]
"""Its kind, its inputs and its output."""


def round_products(graph: GraphProto, weights: Arrays, way: str) -> Arrays:
    """Let the products with weights take rounded ones.

    Args:
        graph: A traced part; its nodes are changed.
        weights: The matrices (N, K) among its inputs by name.
        way: "int8" or "int8-dynamic".

    Returns:
        The new tensors by name, which the graph takes in place of those that it does not need any more.
    """
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    new: Arrays = {}
    nodes: dict[str, NodeProto] = {}  # by their outputs: products of one tensor round it once
    for node in graph.node:
        takes = {"MatMul": lambda n: turned.get(n.input[1], ""), "Gemm": lambda n: n.input[1]}.get(node.op_type)
        name = takes(node) if takes else ""
        if name not in weights:
            nodes[node.output[0]] = node
            continue
        made = node.output[0] + ".product" * (node.op_type == "Gemm")
        nodes |= {each.output[0]: each for each in WAYS[way](node.input[0], name, made, weights[name], new)}
        if node.op_type == "Gemm":
            nodes[node.output[0]] = helper.make_node("Add", [made, node.input[2]], list(node.output))
    needed = {name for node in nodes.values() for name in node.input} | {output.name for output in graph.output}
    del graph.node[:]
    graph.node.extend(node for node in nodes.values() if node.op_type != "Transpose" or node.output[0] in needed)
    return new


def rounded(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Round weights (N, K) to uint8 (N, B, block), rows filled up with zeros; return them and their scales (N, B)."""
    blocks = np.pad(weight, [(0, 0), (0, -weight.shape[1] % block)]).reshape(len(weight), -1, block)
    scales = np.maximum(np.abs(blocks).max(axis=2), SMALLEST) / GREATEST
    return (np.rint(blocks / scales[..., None]) + ZERO).astype(np.uint8), scales.astype(np.float32)


def by_blocks(given: str, name: str, made: str, weight: np.ndarray, new: Arrays) -> list[NodeProto]:
    """The product of ONNX Runtime's own, a scale for each block of a row of weights."""
    if f"{name}.int8" not in new:
        new |= dict(zip((f"{name}.int8", f"{name}.scales"), rounded(weight, BLOCK), strict=True))
    about = dict(zip("NK", weight.shape, strict=True)) | {"bits": 8, "block_size": BLOCK, "accuracy_level": 4}
    inputs = [given, f"{name}.int8", f"{name}.scales"]
    return [helper.make_node("MatMulNBits", inputs, [made], domain="com.microsoft", **about)]


def by_rows(given: str, name: str, made: str, weight: np.ndarray, new: Arrays) -> list[NodeProto]:
    """A product by operators of ONNX, a scale for each row of the weights and of what they are multiplied by."""
    new |= {
        "int8.zero": np.array(ZERO, np.uint8), "int8.shift": np.array(ZERO, np.float32), "int8.axis": np.array([-1]),
        "int8.step": np.array(1 / GREATEST, np.float32), "int8.least": np.array(SMALLEST, np.float32),
    }  # fmt: skip
    if f"{name}.int8" not in new:
        whole, scales = rounded(weight, weight.shape[1])
        new |= {f"{name}.int8": np.ascontiguousarray(whole[:, 0].T), f"{name}.scales": scales[:, 0].copy()}
    steps: list[Node] = [
        ("Abs", [given], f"{given}.abs"),
        ("ReduceMax", [f"{given}.abs", "int8.axis"], f"{given}.greatest"),
        ("Max", [f"{given}.greatest", "int8.least"], f"{given}.range"),
        ("Mul", [f"{given}.range", "int8.step"], f"{given}.scales"),
        ("Div", [given, f"{given}.scales"], f"{given}.steps"),
        ("Round", [f"{given}.steps"], f"{given}.rounded"),
        ("Add", [f"{given}.rounded", "int8.shift"], f"{given}.shifted"),
        ("Cast", [f"{given}.shifted"], f"{given}.int8"),
        ("MatMulInteger", [f"{given}.int8", f"{name}.int8", "int8.zero", "int8.zero"], f"{made}.whole"),
        ("Cast", [f"{made}.whole"], f"{made}.float"),
        ("Mul", [f"{made}.float", f"{name}.scales"], f"{made}.scaled"),
        ("Mul", [f"{made}.scaled", f"{given}.scales"], made),
    ]
    kinds = {f"{given}.int8": {"to": TensorProto.UINT8}, f"{made}.float": {"to": TensorProto.FLOAT}}
    about: dict[str, dict[str, Any]] = {y: kinds.get(y, {}) for *_, y in steps}
    return [helper.make_node(kind, inputs, [y], **about[y]) for kind, inputs, y in steps]


WAYS: dict[str, Callable[[str, str, str, np.ndarray, Arrays], list[NodeProto]]] = {
    "int8": by_blocks, "int8-dynamic": by_rows,
}  # fmt: skip
