"""One model of any engine as a comparison sees it: NumPy arrays in PyTorch's layout go in and come out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.engines import get_engine
from blip_core.outputs import ModelOutput
from blip_core.parameters.graph_parts import INTEGERS
from blip_core.parameters.heads import HEADS
from blip_core.parameters.models import Parameter
from blip_core.processing.processor import BlipProcessor

Arrays = dict[str, np.ndarray]
Results = dict[str, Any]
LEARNING_RATE = 0.01


class ParityModel:
    """A model of any engine, with arrays in PyTorch's layout in and out.

    Attributes:
        head: The row of its class.
        checkpoint: Where its weights are.
        name: The engine's title.
    """

    def __init__(self, engine: str, head: str, checkpoint: str | Path, dtype: str, **options: Any):
        self.engine = get_engine(engine)
        self.name = self.engine.title
        self.head, self.checkpoint = HEADS[head], checkpoint
        self.model = self.engine.model_class(head).from_pretrained(checkpoint, dtype=dtype, **options)

    @property
    def has_state(self) -> bool:
        """Whether the model has a training state: momentum encoders and queues."""
        return bool(getattr(self.model, "has_momentum", False))

    def parameter(self, parameter: Parameter) -> np.ndarray:
        """Return a weight."""
        return self.engine.read(self.model, parameter)

    @cached_property
    def parts(self) -> dict[str, Any]:
        """The parts of exports that it has, by name."""
        return self.engine.parts(self.model)

    def run_part(self, part: str, given: Arrays) -> Arrays:
        """Run a part of exports on named arrays; return its outputs by name."""
        kinds = {name: np.int32 if name in INTEGERS else np.float32 for name in given}
        tensors = {
            name: self.engine.to_tensor(np.asarray(array, kinds[name], "C"), self.model)
            for name, array in given.items()
        }
        with self.engine.no_gradients(self.model):
            return {name: self.engine.to_numpy(array) for name, array in self.parts[part](**tensors).items()}

    def processed(self, processor: BlipProcessor, images: list[Any], texts: list[str] | None) -> Arrays:
        """Return pictures and texts as the processor gives them for this engine."""
        inputs = processor(images=images, text=texts, return_tensors=self.engine.name)
        return {name: self.engine.to_numpy(value) for name, value in inputs.items()}

    def call(self, part: str, **inputs: Any) -> Results:
        """Call a submodule, or for "" the model; return outputs by name, a field of several tensors as a list."""
        module = self.model
        for attribute in filter(None, part.split(".")):
            module = getattr(module, attribute)
        with self.engine.no_gradients(self.model):
            output = module(**self._tensors(inputs))
        return {
            name: [self.engine.to_numpy(one) for one in value]
            if isinstance(value, tuple | list)
            else self.engine.to_numpy(value)
            for name, value in output.items()
            if value is not None and not isinstance(value, ModelOutput)  # parts are called by themselves
        }

    def gradients(self, inputs: Arrays, objective: str) -> Arrays:
        """Return the gradient by parameter of an output's mean square, or of the loss if that is the objective."""
        return self.engine.gradients(self.model, self._tensors(inputs), objective)

    def generate(self, inputs: Arrays, **options: Any) -> np.ndarray:
        """Return generated tokens."""
        return self.engine.to_numpy(self.model.generate(**self._tensors(inputs), **options))

    def step(self, gradients: Arrays, inputs: Arrays) -> None:
        """Take one step of gradient descent by the framework's own optimizer.

        The momentum encoders, if there are any, follow the new weights, and the queues take the pairs of the inputs.
        """
        self.engine.descend(self.model, gradients, LEARNING_RATE)
        given = self._tensors(inputs)
        if self.has_state:
            self.model.prepare_step()
        if self.has_state and self.head.queues:
            images, texts = self.model.momentum_features(
                given["pixel_values"], given["input_ids"], given["attention_mask"], interpolate_pos_encoding=False
            )
            self.model.enqueue(images, texts, given.get("image_ids"))

    def _tensors(self, inputs: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: value for name, value in inputs.items() if isinstance(value, np.ndarray)}
        tensors = {n: self.engine.to_tensor(a, self.model) if a.ndim else a.item() for n, a in arrays.items()}
        return {**inputs, **tensors}
