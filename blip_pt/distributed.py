"""Several processes that train together: each holds a part of the batch and sees all of it.

Without `torch.distributed`, or with one process, everything here returns its argument.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


def processes() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(processes()[1])]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        dist.all_reduce(gradient := gradient.contiguous())
        return gradient.chunk(processes()[1])[processes()[0]]


def gather(x: Tensor) -> Tensor:
    """Concatenate the parts (b, ...) of all processes; gradients flow back to where a part came from."""
    if processes()[1] == 1:
        return x
    gathered: Tensor = _Gather.apply(x.contiguous())  # type: ignore[no-untyped-call]
    return gathered


def same_length(input_ids: Tensor, attention_mask: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Pad texts (b, L) and their mask to the longest text of all processes."""
    if processes()[1] == 1:
        return input_ids, attention_mask
    longest = torch.tensor(input_ids.shape[1], device=input_ids.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = (0, int(longest) - input_ids.shape[1])
    return F.pad(input_ids, missing, value=pad), F.pad(attention_mask, missing)


def mean_over_processes(x: Tensor) -> Tensor:
    """Average a number over all processes, without a gradient."""
    if processes()[1] > 1:
        dist.all_reduce(x := x.detach().clone())
    return x / processes()[1]


class Sharded:
    """A model whose weights, gradients and optimizer state are sharded over the processes (FSDP2).

    Each layer of the encoders is gathered when it computes, but not of a text encoder and decoder that share layers;
    those and the rest are gathered for the whole forward pass. The temperature, a single number, is not sharded.
    Writes to gathered weights are lost, so the momentum encoders follow before the forward pass.
    """

    def __init__(self, model: Any, device: torch.device):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.model = model
        mesh = init_device_mesh(device.type, (processes()[1],))
        vision = [getattr(model, name, None) for name in ("vision_model", "vision_model_m")]
        text: list[Any] = [getattr(model, name, None) for name in ("text_encoder_m", "text_encoder")]
        text.append(getattr(getattr(model, "text_decoder", None), "bert", None))
        if all(text[1:]) and text[1].embeddings is text[2].embeddings:  # encoder and decoder share their layers
            text = text[:1]
        layers = [layer for part in vision if part is not None for layer in part.encoder.layers]
        layers += [layer for part in text if part is not None for layer in part.encoder.layer]
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        self.single = [weight for weight in model.parameters() if weight.ndim == 0]
        fully_shard(model, mesh=mesh, ignored_params=set(self.single))
        self._prepare = getattr(model, "prepare_step", None)
        model.prepare_step = lambda: None

    def share_out(self) -> None:
        """Reshard weights that are still gathered, as they are after a forward pass without a backward pass."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def __call__(self, **inputs: Any) -> Any:
        """Call the model; in training this is a step."""
        self.share_out()
        if self._prepare is not None and self.model.training:
            self._prepare()
        with warnings.catch_warnings():  # the outputs are not changed in place
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            return self.model(**inputs)

    def clip(self, limit: float) -> float:
        """Clip the gradients to a norm and return the norm that they had."""
        for weight in self.single:
            if weight.grad is not None:
                weight.grad.copy_(mean_over_processes(weight.grad))
        others = [w for w in self.model.parameters() if w.grad is not None and w.ndim]
        norm = float(full(nn.utils.get_total_norm([w.grad for w in others])))
        norm = math.hypot(norm, *(float(w.grad) for w in self.single if w.grad is not None))
        if norm > limit:
            for weight in self.model.parameters():
                if weight.grad is not None:
                    weight.grad.mul_(limit / (norm + 1e-6))
        return norm


def full(x: Tensor) -> Tensor:
    """Gather a sharded tensor; all processes must call it."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x
