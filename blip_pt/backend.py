"""What `blip_core` asks of PyTorch: arrays in and out, devices, and the weights of a model as arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blip_core.parameters.models import Parameter
from blip_pt.base import evaluating
from blip_pt.nn import to_array
from blip_pt.parts import part_functions


def to_tensor(array: np.ndarray, model: Any = None) -> Tensor:
    """An array as a tensor on the model's device."""
    return torch.from_numpy(np.asarray(array, order="C")).to(None if model is None else model.device)


def move(tensor: Tensor, device: Any, dtype: Any, non_blocking: bool = False) -> Tensor:
    """A tensor on a device; a floating-point one is cast to a type, or the type of a name."""
    if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype must be a type of torch or its name, got {dtype!r}.")
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=non_blocking)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array; half precision becomes float32."""
    return to_array(tensor)


def no_gradients(model: Any) -> AbstractContextManager[None]:
    """A context without gradients and without dropout, whatever mode the model is in."""
    return evaluating(model)


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """Raise `ValueError` for a device that PyTorch does not have here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"device {name!r} does not work in PyTorch here ({reason}); it has {', '.join(devices)}."
        ) from None


def precision(model: Any) -> str:
    """The name of the type that a model computes in."""
    return str(model.dtype).removeprefix("torch.")


def weights(model: Any, beginnings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, np.ndarray]]:
    """The name and array of each weight whose name begins so, float32, without what only training needs."""
    for row in model.table():
        if row.name.startswith(beginnings) and not row.part.state:
            yield row.name, np.asarray(read(model, row), np.float32, order="C")


def parts(model: Any) -> dict[str, Callable[..., dict[str, Tensor]]]:
    """The parts of a model that exports have, by name."""
    return part_functions(model)


def read(model: Any, row: Parameter) -> np.ndarray:
    """One weight, or part of the training state, in PyTorch's layout."""
    return to_array(model.get_tensor(row.name))


def gradients(model: Any, inputs: dict[str, Any], objective: str) -> dict[str, np.ndarray]:
    """The gradient of the loss, or of another output's mean square, by parameter and in PyTorch's layout."""
    model.zero_grad()
    output = model(**inputs)[objective]
    (output if objective == "loss" else output.square().mean()).backward()
    found = {row.name: model.get_tensor(row.name).grad for row in model.table()}
    return {name: to_array(gradient) for name, gradient in found.items() if gradient is not None}


def descend(model: Any, gradients: dict[str, np.ndarray], rate: float) -> None:
    """Take a step of gradient descent by the framework's own optimizer."""
    weights = [model.get_tensor(name) for name in gradients]
    for weight, gradient in zip(weights, gradients.values(), strict=True):
        weight.grad = to_tensor(gradient, model).to(weight.dtype)
    torch.optim.SGD(weights, lr=rate).step()


def resize_pixels(pixels: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Resize uint8 (height, width, 3) with antialiasing; `mode` is "bilinear" or "bicubic"."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.inference_mode():
        resized = nn.functional.interpolate(planes, (height, width), mode=mode, antialias=True)
    found: np.ndarray = resized[0].permute(1, 2, 0).numpy()
    return found
