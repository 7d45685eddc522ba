"""One BLIP in either framework, behind the same few methods, giving NumPy arrays in PyTorch's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from blip_core.outputs import ModelOutput
from blip_core.parameters.models import Parameter

Arrays = dict[str, np.ndarray]
Results = dict[str, Any]
LEARNING_RATE = 0.01


class ParityModel(Protocol):
    """What a comparison asks of a model. `part` is the name of a submodule, or empty for the model itself."""

    model: Any
    name: str

    @property
    def has_state(self) -> bool:
        """Whether the model has a state of training: momentum encoders and queues."""
        ...

    def parameter(self, parameter: Parameter) -> np.ndarray:
        """A weight."""
        ...

    def processed(self, processor: Any, images: list[Any], texts: list[str] | None) -> Arrays:
        """Pictures and texts as the processor gives them in this framework."""
        ...

    def call(self, part: str, **inputs: Any) -> Results:
        """Outputs by name; a field of several tensors is a list."""
        ...

    def gradients(self, inputs: Arrays, objective: str) -> dict[str, np.ndarray]:
        """The gradient of an output's mean square by parameter, or of the loss where that is the objective."""
        ...

    def generate(self, inputs: Arrays, **options: Any) -> np.ndarray:
        """Tokens."""
        ...

    def step(self, gradients: dict[str, np.ndarray], inputs: Arrays) -> None:
        """One step of gradient descent by the framework's own optimizer, and of the training state where there is one.

        Its momentum encoders follow the new weights, and the queues take the pairs of the inputs.
        """
        ...


def load(framework: str, head: str, checkpoint: str | Path, dtype: str, **options: Any) -> ParityModel:
    """Load a checkpoint in a framework, "pt" or "tf"."""
    kind: type[TorchModel] | type[TensorFlowModel] = TorchModel if framework == "pt" else TensorFlowModel
    return kind(head, checkpoint, dtype, **options)


class TorchModel:
    """A model of `blip_pt`."""

    name = "PyTorch"

    def __init__(self, head: str, checkpoint: str | Path, dtype: str, **options: Any):
        import torch

        import blip_pt

        self.torch = torch
        self.model = getattr(blip_pt, head).from_pretrained(checkpoint, dtype=dtype, **options)

    @property
    def has_state(self) -> bool:
        return getattr(self.model, "has_momentum", False)

    def parameter(self, parameter: Parameter) -> np.ndarray:
        return self._numpy(self.model.get_tensor(parameter.name))

    def processed(self, processor: Any, images: list[Any], texts: list[str] | None) -> Arrays:
        return {k: v.numpy() for k, v in processor(images=images, text=texts, return_tensors="pt").items()}

    def call(self, part: str, **inputs: Any) -> Results:
        with self.torch.no_grad():
            output = self.model.get_submodule(part)(**self._tensors(inputs))
        return _fields(output, self._numpy)

    def gradients(self, inputs: Arrays, objective: str) -> dict[str, np.ndarray]:
        self.model.zero_grad()
        output = self.model(**self._tensors(inputs))[objective]
        (output if objective == "loss" else output.square().mean()).backward()
        found = {row.name: self.model.get_tensor(row.name).grad for row in self.model.table()}
        return {name: self._numpy(gradient) for name, gradient in found.items() if gradient is not None}

    def generate(self, inputs: Arrays, **options: Any) -> np.ndarray:
        return self.model.generate(**self._tensors(inputs), **options).numpy()

    def step(self, gradients: dict[str, np.ndarray], inputs: Arrays) -> None:
        self.torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE).step()  # the gradients are the last ones
        if self.has_state:
            follow(self.model, self._tensors(inputs))

    def _tensors(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {k: self.torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}

    def _numpy(self, tensor: Any) -> np.ndarray:
        tensor = tensor.detach()
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


class TensorFlowModel:
    """A model of `blip_tf`."""

    name = "TensorFlow"

    def __init__(self, head: str, checkpoint: str | Path, dtype: str, **options: Any):
        import tensorflow as tf

        import blip_tf

        self.tf = tf
        self.model = getattr(blip_tf, f"TF{head}").from_pretrained(checkpoint, dtype=dtype, **options)

    @property
    def has_state(self) -> bool:
        return getattr(self.model, "has_momentum", False)

    def parameter(self, parameter: Parameter) -> np.ndarray:
        return parameter.from_tensorflow(self._numpy(self.model.get_parameter(parameter.name).value))

    def processed(self, processor: Any, images: list[Any], texts: list[str] | None) -> Arrays:
        return {k: v.numpy() for k, v in processor(images=images, text=texts, return_tensors="tf").items()}

    def call(self, part: str, **inputs: Any) -> Results:
        model = self.model
        for step in filter(None, part.split(".")):
            model = getattr(model, step)
        return _fields(model(**self._tensors(inputs)), self._numpy)

    def gradients(self, inputs: Arrays, objective: str) -> dict[str, np.ndarray]:
        with self.tf.GradientTape() as tape:
            output = self.model(**self._tensors(inputs))[objective]
            loss = output if objective == "loss" else self.tf.reduce_mean(self.tf.square(output))
        rows = self.model.table()
        found = tape.gradient(loss, [self.model.get_parameter(row.name) for row in rows])
        return {
            row.name: row.from_tensorflow(self._numpy(self.tf.convert_to_tensor(gradient)))
            for row, gradient in zip(rows, found, strict=True)
            if gradient is not None
        }

    def generate(self, inputs: Arrays, **options: Any) -> np.ndarray:
        return self.model.generate(**self._tensors(inputs), **options).numpy()

    def step(self, gradients: dict[str, np.ndarray], inputs: Arrays) -> None:
        import keras

        rows = [row for row in self.model.table() if row.name in gradients]
        pairs = [
            (self.tf.constant(row.to_tensorflow(gradients[row.name]), "float32"), self.model.get_parameter(row.name))
            for row in rows
        ]
        keras.optimizers.SGD(LEARNING_RATE).apply_gradients(pairs)
        if self.has_state:
            follow(self.model, self._tensors(inputs))

    def _tensors(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {k: self.tf.constant(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}

    def _numpy(self, tensor: Any) -> np.ndarray:
        return np.asarray((self.tf.cast(tensor, "float64") if tensor.dtype.is_floating else tensor).numpy())


def follow(model: Any, inputs: dict[str, Any]) -> None:
    """What a training step does to the training state, by the same methods but without dropout."""
    model.prepare_step()
    pictures, texts = model.momentum_features(
        inputs["pixel_values"], inputs["input_ids"], inputs["attention_mask"], interpolate_pos_encoding=False
    )
    model.enqueue(pictures, texts, inputs.get("image_ids"))


def _fields(output: Any, convert: Any) -> Results:
    return {
        name: [convert(one) for one in value] if isinstance(value, tuple | list) else convert(value)
        for name, value in output.items()
        if value is not None and not isinstance(value, ModelOutput)  # those of parts are asked for by themselves
    }
