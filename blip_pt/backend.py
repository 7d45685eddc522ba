"""What `blip_core` asks of PyTorch: arrays in and out, devices, and the weights of a model as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip_core.parameters.models import TRAINING_STATE
from blip_pt.base import evaluating
from blip_pt.nn import to_array


def to_tensor(array: np.ndarray, model: Any) -> Tensor:
    """An array as a tensor on the model's device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(model.device)


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
    state = {part for parts in TRAINING_STATE.values() for part in parts}
    for row in model.table():
        if row.name.startswith(beginnings) and row.part not in state:
            array = to_array(model.get_parameter(row.name))
            yield row.name, array.astype(np.float32, copy=False)
