"""Layers for long work on a CPU: weights that lie as oneDNN multiplies with them fastest, `model.optimize()`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from blip_pt.nn import FUSING, SMALL, Activation, Linear, is_tracing, linear, onednn_can
from blip_pt.products import HAS_ONEDNN, best_way, onednn, pack

UNDO = "the model is optimized; call model.optimize(False) first"


class PackedLinear(nn.Module):
    """A `Linear` with a packed weight, which takes the place of the other: nothing can be changed that is stale then.

    There is no `weight` to read or to write, which an error says; the bias is that of the layer.
    """

    def __init__(self, layer: Linear):
        super().__init__()
        self.shape = layer.weight.shape
        self.packed = pack(layer.weight.detach())
        self.bias = layer.bias

    def dense(self) -> Tensor:
        """A copy of the weight (out, in), bit by bit as it was."""
        with torch.no_grad():
            return self.packed.to_dense().contiguous()

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(f"There is no weight: {UNDO}.")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise ValueError(f"The weight cannot be replaced: {UNDO}.")
        super().__setattr__(name, value)

    def layer(self) -> Linear:
        """The layer that this one was made of."""
        layer = Linear(self.shape[1], self.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(self.dense(), requires_grad=False)
        layer.bias = self.bias
        return layer.train(self.training)

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        if is_tracing():
            raise ValueError(f"A graph cannot be made of packed weights: {UNDO}.")
        if not onednn_can(x, self.bias):  # such as where a gradient is wanted
            return linear(x, self.dense(), self.bias, activation)
        fused = activation is torch.nn.functional.gelu
        x = onednn(x.contiguous(), self.packed, self.bias, "gelu" if fused else "none")
        return x if fused or activation is None else activation(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        moved = fn(torch.empty(0))
        if moved.dtype != torch.float32 or not moved.is_cpu:
            raise ValueError(f"Packed weights are float32 on the CPU: {UNDO}.")
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        raise ValueError(f"Weights cannot be loaded into {prefix.rstrip('.')}: {UNDO}.")

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return PackedLinear(self.layer()).train(self.training)


FUSING.add(PackedLinear)


def pack_layers(model: nn.Module) -> None:
    """Pack the weights of a model's large layers where that is faster, but not those that several layers share."""
    if not HAS_ONEDNN:
        return
    owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))

    def change(layer: Linear, rows: int) -> nn.Module:
        return PackedLinear(layer) if owners[id(layer.weight)] == 1 and can_pack(layer, rows) else layer

    _replace(model, Linear, change)


def can_pack(layer: Linear, rows: int) -> bool:
    """Say whether the weight of a layer can be packed, and is worth it for so many rows."""
    weight = layer.weight
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    plain = not hooked and weight.numel() >= SMALL and weight.is_cpu and weight.dtype == torch.float32
    return plain and best_way(rows, weight, packing=True) == "packed"


def unpack_layers(model: nn.Module) -> None:
    """Undo `pack_layers`."""
    _replace(model, PackedLinear, lambda layer, rows: layer.layer())


PICTURES, TEXTS = 128, 4
"""Rows for which a layer is judged: a picture's tokens, or the beams of a text."""


def _replace(model: nn.Module, kind: type[nn.Module], change: Callable[[Any, int], nn.Module]) -> None:
    new: dict[nn.Module, nn.Module] = {}  # by the old one, as a layer may be a part of several others
    for path, module in list(model.named_modules()):
        rows = PICTURES if "encoder.layers." in path else TEXTS
        for name, child in list(module._modules.items()):
            if type(child) is kind:
                new[child] = new.get(child) or change(child, rows)
                setattr(module, name, new[child])
