"""What `blip_core` asks of TensorFlow: arrays in and out, devices, and the weights of a model as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core.parameters.models import Parameter
from blip_tf.base import tf_device
from blip_tf.nn import to_array
from blip_tf.parts import part_functions


def to_tensor(array: np.ndarray, model: Any = None) -> Tensor:
    """An array as a tensor; TensorFlow moves it to where it is used."""
    return tf.constant(array)


def move(tensor: Tensor, device: Any, dtype: Any, non_blocking: bool = False) -> Tensor:
    """A tensor on a device; a floating-point one is cast to a type, or the type of a name.

    TensorFlow decides by itself whether the program waits (`non_blocking`).
    """
    with tf.device(device):
        return tf.cast(tensor, dtype) if dtype is not None and tensor.dtype.is_floating else tf.identity(tensor)


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
    for row in model.table():
        if row.name.startswith(beginnings) and not row.part.state:
            yield row.name, np.asarray(read(model, row), np.float32, order="C")


def parts(model: Any) -> dict[str, Callable[..., dict[str, Tensor]]]:
    """The parts of a model that exports have, by name."""
    return part_functions(model)


def read(model: Any, row: Parameter) -> np.ndarray:
    """One weight, or part of the training state, in PyTorch's layout."""
    return row.from_tensorflow(to_array(model.get_parameter(row.name)))


def gradients(model: Any, inputs: dict[str, Any], objective: str) -> dict[str, np.ndarray]:
    """The gradient of the loss, or of another output's mean square, by parameter and in PyTorch's layout."""
    rows = model.table()
    with tf.GradientTape() as tape:
        output = model(**inputs)[objective]
        loss = output if objective == "loss" else tf.reduce_mean(tf.square(output))
    found = zip(rows, tape.gradient(loss, [model.get_parameter(row.name) for row in rows]), strict=True)
    return {
        row.name: row.from_tensorflow(to_array(tf.convert_to_tensor(gradient)))
        for row, gradient in found
        if gradient is not None
    }


def descend(model: Any, gradients: dict[str, np.ndarray], rate: float) -> None:
    """Take a step of gradient descent by the framework's own optimizer."""
    rows = [row for row in model.table() if row.name in gradients]
    steps = [to_tensor(row.to_tensorflow(gradients[row.name])) for row in rows]
    weights = [model.get_parameter(row.name) for row in rows]
    keras.optimizers.SGD(rate).apply_gradients(zip(steps, weights, strict=True))
