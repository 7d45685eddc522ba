"""What `blip_core` asks of TensorFlow: arrays in and out, devices, and the weights of a model as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core.parameters.models import TRAINING_STATE
from blip_tf.base import tf_device
from blip_tf.nn import to_array


def to_tensor(array: np.ndarray, model: Any) -> Tensor:
    """An array as a tensor; TensorFlow moves it to where it is used."""
    return tf.constant(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array; half precision becomes float32."""
    return to_array(tensor)


def no_gradients(model: Any) -> AbstractContextManager[None]:
    """No context: TensorFlow records gradients on a tape alone, and drops out only what is called with training."""
    return nullcontext()


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    return "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"


def check_device(name: str) -> None:
    """Raise `ValueError` for a device that TensorFlow does not have here."""
    tf_device(name)


def precision(model: Any) -> str:
    """The name of the type that a model computes in."""
    return str(model.compute_dtype)


def weights(model: Any, beginnings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, np.ndarray]]:
    """The name and array of each weight whose name begins so, float32, without what only training needs."""
    state = {part for parts in TRAINING_STATE.values() for part in parts}
    for row in model.table():
        if row.name.startswith(beginnings) and row.part not in state:
            array = row.from_tensorflow(to_array(model.get_parameter(row.name)))
            yield row.name, np.ascontiguousarray(array, np.float32)
