"""Several processes that train together: each holds a part of the batch and sees all of it.

Without `torch.distributed`, or with one process, everything here gives back what it gets.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def processes() -> tuple[int, int]:
    """The number of this process and how many there are."""
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
    """The parts (b, ...) of all processes, one behind the other; gradients flow back to where a part came from."""
    return x if processes()[1] == 1 else _Gather.apply(x.contiguous())


def same_length(input_ids: Tensor, attention_mask: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Texts (b, L) and their mask, padded to the longest of all processes."""
    if processes()[1] == 1:
        return input_ids, attention_mask
    longest = torch.tensor(input_ids.shape[1], device=input_ids.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = (0, int(longest) - input_ids.shape[1])
    return F.pad(input_ids, missing, value=pad), F.pad(attention_mask, missing)


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of a number over all processes, without a gradient."""
    if processes()[1] > 1:
        dist.all_reduce(x := x.detach().clone())
    return x / processes()[1]
