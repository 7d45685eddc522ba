"""Weights of ONNX graphs in 8 bits, for ONNX Runtime: what is multiplied by them is still float32.

Shapes: N outputs and K inputs of a product, B blocks of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper

BLOCK = 32
"""How many weights of a row share a scale."""
ZERO = 128
"""What stands for 0 among the rounded weights."""


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round weights (N, K) to uint8 (N, B, 32), rows filled up with zeros; return them and their scales (N, B)."""
    outputs, inputs = weight.shape
    blocks = np.pad(weight, [(0, 0), (0, -inputs % BLOCK)]).reshape(outputs, -1, BLOCK)
    scales = np.abs(blocks).max(axis=2) / (ZERO - 1)
    whole = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None])
    return (whole + ZERO).astype(np.uint8), scales.astype(np.float32)


def round_products(graph: GraphProto, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Let the products with weights, inputs of the graph, take rounded ones.

    Args:
        graph: A traced part; its nodes are changed.
        weights: The matrices (N, K) among its inputs by name.

    Returns:
        The new tensors by name, which the graph takes in place of those that it does not need any more.
    """
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    new: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        name = (
            {"MatMul": turned.get(node.input[1]), "Gemm": node.input[1]}.get(node.op_type)
            if len(node.input) > 1
            else None
        )
        if name not in weights:
            nodes.append(node)
            continue
        names = [f"{name}.int8", f"{name}.scales"]
        if names[0] not in new:
            new |= dict(zip(names, rounded(weights[name]), strict=True))
        about: dict[str, Any] = dict(zip("NK", weights[name].shape, strict=True), bits=8, block_size=BLOCK)
        product = f"{node.output[0]}.product" if node.op_type == "Gemm" else node.output[0]
        nodes.append(
            helper.make_node("MatMulNBits", [node.input[0], *names], [product], domain="com.microsoft", **about)
        )
        if node.op_type == "Gemm":
            nodes.append(helper.make_node("Add", [product, node.input[2]], list(node.output)))
    needed = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.op_type != "Transpose" or node.output[0] in needed)
    return new
