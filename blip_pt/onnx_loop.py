"""Export to one ONNX file with a whole greedy search in it: pictures in, tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model
from torch import Tensor, nn

from blip_core.parameters.graph_parts import PARTS, axis_sizes, parts_of
from blip_pt.base import model_name
from blip_pt.greedy import FIXED, advance, start
from blip_pt.onnx_export import example_inputs, free_axes, let_any_size, share_weights, traced

GOING = "going"
"""The tensor that says whether some text has not ended."""


class Start(nn.Module):
    """What begins the search: pictures and texts -> the state, as a tuple in its order."""

    def __init__(self, model: nn.Module, max_new_tokens: int):
        super().__init__()
        self.model, self.max_new_tokens = model, max_new_tokens

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(going(start(self.model, self.max_new_tokens, *given)).values())


class Advance(nn.Module):
    """What the search repeats: the state of the tensors with these names -> the next one."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        found = going(advance(self.model, dict(zip(self.names, given, strict=True))))
        return tuple(found[name] for name in found if name not in FIXED)


def going(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state, and before it whether some text has not ended."""
    return {GOING: (~state["ended"]).any(), **state}


@torch.no_grad()
def export_onnx_caption(
    model: Any, folder: Path, *, free_size: bool = False, max_new_tokens: int = 20
) -> dict[str, str]:
    """Write `caption.onnx`, of a question answerer `answer.onnx`, into a folder that has its `model.safetensors`.

    The file has the weights, and `model.safetensors` is removed.

    Args:
        model: The float32 model; with `free_size` it is changed and must not be used any more.
        folder: Where to write.
        free_size: Whether the graph takes pictures of any size.
        max_new_tokens: The most tokens that are generated.

    Returns:
        The file by the name of the part.

    Raises:
        ValueError: If the weights are more than an ONNX file can hold.
    """
    head, stored = model_name(type(model)), folder / "model.safetensors"
    if stored.stat().st_size > LIMIT:
        raise ValueError(
            f"one ONNX file holds 2 GB, and these weights are {stored.stat().st_size / 1e9:.1f} GB; pass "
            "dtype='float16', or export to onnx."
        )
    (part,) = (part for part in parts_of(head) if part.loop)
    sizes = axis_sizes(head, model.config, free_size)
    if free_size:
        let_any_size(model)
    given = example_inputs(part, {**sizes, "texts": 2})  # as many as pictures
    first = start(model, max_new_tokens, *given.values())
    carried = [name for name in first if name not in FIXED]
    graph = traced(Start(model, max_new_tokens), given, free_axes(part.inputs, sizes))
    rename(graph.graph, dict(zip([output.name for output in graph.graph.output], going(first), strict=True)))
    axes = {name: dict(enumerate(f"{name}_{axis}" for axis in range(value.ndim))) for name, value in first.items()}
    body = traced(Advance(model, list(first)), first, axes).graph
    own = {name for node in body.node for name in node.output} | {*carried}
    rename(body, {name: f"next/{name}" for name in own})
    # Weights, and what stays as it is, are those of the graph around the loop.
    weights = dict(model.named_parameters(prefix="model", remove_duplicate=False))
    known = {value.name for value in graph.graph.input}
    graph.graph.input.extend(value for value in body.input if value.name in weights and value.name not in known)
    inputs = [value for value in body.input if value.name not in weights and value.name not in FIXED]
    del body.input[:]
    body.input.append(helper.make_tensor_value_info("next/count", TensorProto.INT64, []))
    body.input.append(helper.make_tensor_value_info("next/before", TensorProto.BOOL, []))
    body.input.extend(inputs)
    share_weights(graph, model, stored)
    finish(graph.graph, body, carried, max_new_tokens)
    if part.name == "caption":  # pictures alone are enough
        prompt = [[model.config.text_config.bos_token_id, *(model.generation_config.prompt_ids or [])]]
        for name, value in (("input_ids", prompt), ("attention_mask", np.ones_like(prompt))):
            graph.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int32), name))
    load_external_data_for_model(graph, str(folder))
    onnx.save_model(graph, folder / f"{part.name}.onnx")
    stored.unlink()
    return {part.name: f"{part.name}.onnx"}


def finish(graph: onnx.GraphProto, body: onnx.GraphProto, carried: list[str], max_new_tokens: int) -> None:
    """Add the loop to a graph, and the output: the texts, as far as the longest goes."""
    for name, value in (("most", max_new_tokens - 1), ("zero", [0]), ("one", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    last = [f"last/{name}" for name in carried]
    graph.node.extend([
        helper.make_node("Loop", ["most", GOING, *carried], last, body=body),
        helper.make_node("ReduceMax", ["last/ends"], ["longest"], keepdims=1),
        helper.make_node("Slice", ["last/texts", "zero", "longest", "one"], ["sequences"]),
    ])  # fmt: skip
    axes = PARTS["caption"].outputs["sequences"].split()
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("sequences", TensorProto.INT32, axes))
    del graph.value_info[:]


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors of a graph other names."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    del graph.value_info[:]


LIMIT = 2**31 - 2**24
"""Bytes of weights that one file can hold, as protocol buffers have at most 2 GB."""
