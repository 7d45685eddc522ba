"""The layers that BLIP is made of. Models initialise their weights (see `base.py`), layers leave them empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip_pt.products import HAS_ONEDNN, USUAL, best_way, onednn

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU, approximated by tanh."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """GELU, approximated by a sigmoid."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": torch.positive,
}


class Linear(nn.Linear):
    """Linear layer x (..., in) -> (..., out) with an optional fused activation. The weight is (out, in)."""

    __call__: Callable[..., Tensor]

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, activation)


class LoraLinear(nn.Module):
    """A `Linear` that stays as it is, and a change of low rank that is trained: x W^T + b + scale * (x A^T) B^T."""

    def __init__(self, layer: Linear, rank: int, scale: float):
        super().__init__()
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        out, into = layer.weight.shape
        self.lora_A = Linear(into, rank, bias=False)
        self.lora_B = Linear(rank, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + self.scale * self.lora_B(self.lora_A(x))


class QuantizedLinear(nn.Module):
    """A `Linear` with int8 weights, a scale for each output. x (..., in) is rounded to int8 as well, row by row."""

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, weight_int8: Tensor, scale: Tensor, bias: nn.Parameter):
        super().__init__()
        self.register_buffer("weight_int8", weight_int8)  # (out, in)
        self.register_buffer("scale", scale)  # (out,)
        self.bias = bias

    @classmethod
    def of(cls, layer: nn.Linear) -> QuantizedLinear:
        """Round the weight of a layer."""
        weight = layer.weight.detach().float()
        scale = int8_scale(weight)
        return cls((weight / scale).round().to(torch.int8), scale[:, 0], layer.bias)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight (out, in)."""
        return (self.weight_int8 * self.scale[:, None]).to(self.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu:  # int8 products need many rows there; only memory is saved
            return linear(x, self.weight, self.bias)
        rows = x.reshape(-1, x.shape[-1]).float()
        scale = int8_scale(rows)  # (rows, 1)
        whole = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight_int8.T)  # int32 (rows, out)
        return (whole * scale * self.scale + self.bias).to(x.dtype).view(*x.shape[:-1], -1)


class LayerNorm(nn.LayerNorm):
    """Normalises the last axis."""

    __call__: Callable[..., Tensor]

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """ids (...) -> (..., width). Lookups of `padding_idx` contribute no gradient."""

    __call__: Callable[..., Tensor]

    def reset_parameters(self) -> None:
        pass


class PatchEmbedding(nn.Conv2d):
    """pictures (batch, channels, height, width) -> patches (batch, out, rows, columns)."""

    __call__: Callable[..., Tensor]

    def reset_parameters(self) -> None:
        pass


def activated(layer: nn.Module, x: Tensor, activation: Activation) -> Tensor:
    """Apply a layer and an activation, fused where the layer is of `FUSING` and no adapter around one."""
    return layer(x, activation) if type(layer) in FUSING else activation(layer(x))


FUSING: set[type] = {Linear}
"""The classes of layers that take an activation; exactly these, as an adapter may be derived from one."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> Tensor:
    """x (..., in) -> (..., out) by a weight (out, in), then the activation.

    In float32 on a CPU PyTorch computes products by MKL, which uses AVX-512 on Intel's processors alone. Without
    gradients oneDNN computes them here where it is faster on this machine (see `products.py`), on an AMD Zen 5 in half
    the time, and fuses the exact GELU.
    """
    if (
        weight.numel() < SMALL
        or not weight.is_contiguous()
        or not onednn_can(x, weight, bias)
        or best_way(x.numel() // weight.shape[1], weight) == "torch"
    ):
        x = F.linear(x, weight, bias)
    elif activation is F.gelu:
        return onednn(x.contiguous(), weight, bias, "gelu")
    else:
        x = onednn(x.contiguous(), weight, bias)
    return x if activation is None else activation(x)


SMALL = 2**16  # weights, or scores of attention; below, starting threads costs more than it saves


def onednn_can(*tensors: Tensor | None) -> bool:
    """Say whether oneDNN may compute on these: float32 on a CPU, and neither autograd, autocast nor tracing is active.

    `torch.backends.mkldnn.flags(enabled=False)` forbids it.
    """
    if not HAS_ONEDNN or not torch.backends.mkldnn.enabled:
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in (Tensor, nn.Parameter)
            or tensor.dtype is not torch.float32
            or not tensor.is_cpu
            or (grad and tensor.requires_grad)
        ):
            return False
    return not (torch.is_autocast_enabled("cpu") or is_tracing())


def is_tracing() -> bool:
    """Say whether a graph is being made, in which values must not decide anything."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def onednn_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention by oneDNN, head by head, so that the scores of one stay in the cache."""
    batch, heads, length, width = query.shape
    query = torch.mul(query, width**-0.5, out=query.new_empty(query.shape))
    key, value = key.contiguous(), value.contiguous()
    context = query.new_empty(batch, length, heads, width).transpose(1, 2)  # so that merging heads copies nothing
    for item in product(range(batch), range(heads)):
        for start in range(0, length, ROWS):
            rows = slice(start, start + ROWS)
            probabilities = torch.softmax(onednn(query[item][rows], key[item]), dim=-1)
            context[item][rows] = onednn(probabilities, value[item].T)
    return context


ROWS = 1024  # queries at a time, which bounds the memory of their scores


def int8_scale(x: Tensor) -> Tensor:
    """The scales (rows, 1) that bring each row of x (rows, width) to between -127 and 127."""
    return x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127


def wide(x: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return x.float() if x.dtype.itemsize < 4 else x


def to_array(x: Tensor | np.ndarray) -> np.ndarray:
    """A tensor as a NumPy array; half precision becomes float32."""
    if isinstance(x, np.ndarray):
        return x
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).numpy()


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """In training, set elements to 0 at random and scale up the others."""
    return F.dropout(x, rate) if training and rate else x


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: in training, drop the residual x (B, T, W) of some pictures and scale up the others'."""
    if not training or not rate:
        return x
    return x * F.dropout(x.new_ones(x.shape[0], 1, 1), rate)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, width) -> (batch, heads, length, head width)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, head width) -> (batch, length, width)."""
    return x.transpose(1, 2).flatten(2)


def over_heads(mask: Tensor) -> Tensor:
    """(batch, keys) or (batch, queries, keys) -> (batch, 1, 1 or queries, keys)."""
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def causal_mask(mask: Tensor | None, length: int, device: torch.device, dtype: torch.dtype, start: int = 0) -> Tensor:
    """Additive mask (batch or 1, 1, length, keys): each token sees itself and the real tokens before it.

    `start` tokens come before the first of these `length`; `mask` has a place for all.
    """
    causal = torch.ones(length, start + length, dtype=torch.long, device=device).tril(start)
    return additive_mask(causal[None, None] if mask is None else causal * over_heads(mask).long(), dtype)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where to attend, 0 where not -> 0 and the lowest number of `dtype`, to be added to the scores."""
    return (1 - mask.to(dtype)) * torch.finfo(dtype).min


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, output_attentions: bool
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention on (batch, heads, length, head width), with the probabilities if asked for.

    `mask` is added to the scores and broadcasts to (batch, heads, queries, keys).
    """
    if not output_attentions and not slow_to_train(query):
        large = query.shape[2] * key.shape[2] >= SMALL
        if large and USUAL == "onednn" and mask is None and not dropout and onednn_can(query, key, value):
            return onednn_attention(query, key, value), None
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout), None
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    probabilities = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    return F.dropout(probabilities, dropout) @ value, probabilities if output_attentions else None


def slow_to_train(query: Tensor) -> bool:
    """Say whether the backward pass of PyTorch's fused attention is several times as slow: half precision on a CPU."""
    return query.requires_grad and query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16)
