"""Export to programs of `torch.export`, which PyTorch runs where this package is not installed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blip_core.parameters.graph_parts import PARTS, axis_sizes
from blip_pt.base import model_name
from blip_pt.onnx_export import example_inputs, free_axes
from blip_pt.parts import Tensors, part_functions


class Program(nn.Module):
    """A part of a model as a module that takes its inputs by name."""

    def __init__(self, model: nn.Module, function: Callable[..., Tensors], inputs: Mapping[str, str]):
        super().__init__()
        self.model = model

        def forward(**given: Tensor) -> Tensors:
            return function(**given)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in inputs])  # type: ignore[attr-defined]
        self.forward = forward


def export_programs(model: Any, folder: Path) -> dict[str, str]:
    """Write a program `PART.pt2` for each part of a float32 model, with its weights; return the file of each part.

    `model.safetensors` of the folder is removed. Raises `ValueError` for a PyTorch that cannot leave sizes open.
    """
    config: Any = importlib.import_module("torch.fx.experimental._config")
    if "prefer_deferred_runtime_asserts_over_guards" not in inspect.signature(torch.export.export).parameters:
        raise ValueError(f"torch-export needs a newer PyTorch than {torch.__version__}; pip install -U torch.")
    head, written = model_name(type(model)), {}
    model.requires_grad_(False)
    sizes = axis_sizes(head, model.config)
    for name, function in part_functions(model).items():
        part = PARTS[name]
        free = free_axes(part.inputs, sizes)
        with torch.no_grad(), config.patch(backed_size_oblivious=True):  # sizes of 1 are sizes as others are
            program = torch.export.export(
                Program(model, function, part.inputs).eval(),
                (),
                example_inputs(part, sizes),
                dynamic_shapes={key: dict.fromkeys(axes, torch.export.Dim.AUTO) or None for key, axes in free.items()},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        leave_out_unused(program)
        written[name] = f"{name}.pt2"
        torch.export.save(program, folder / written[name])
    (folder / "model.safetensors").unlink()
    return written


def leave_out_unused(program: Any) -> None:
    """Remove the weights from a program that it does not read."""
    signature, graph = program.graph_signature, program.graph_module.graph
    for node, spec in list(zip(graph.find_nodes(op="placeholder"), signature.input_specs, strict=True)):
        if spec.target is not None and not node.users:
            signature.input_specs.remove(spec)
            graph.erase_node(node)
    program.graph_module.recompile()
    kept = {spec.target for spec in signature.input_specs}
    for name in program.state_dict.keys() - kept:
        del program.state_dict[name]
