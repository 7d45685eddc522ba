"""The parts of a model that only Keras has: `compile` and `fit` with the model's own loss, `.keras` files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import GenerationConfig
from blip_core.parameters.heads import HEADS


class KerasModel(keras.Model):
    """A model whose `call` takes named inputs from the processor and returns an output with a `loss`.

    Batches of `fit` and `evaluate` are dictionaries of the model's inputs, including `labels` or what else its loss
    needs, or pairs of such a dictionary and its labels.
    """

    def compile(self, optimizer: Any = "adam", **options: Any) -> None:
        """Prepare the model for `fit` with its own loss.

        Args:
            optimizer: A Keras optimizer or its name.
            **options: Further options of `keras.Model.compile`, such as `jit_compile` or `run_eagerly`.

        Raises:
            ValueError: If a loss or metrics are given, which would not be computed.
        """
        if given := [name for name in ("loss", "loss_weights", "metrics", "weighted_metrics") if options.get(name)]:
            raise ValueError(f"The model computes its own loss; leave out {', '.join(given)}.")
        super().compile(optimizer=optimizer, **options)
        self.optimizer.build(self.trainable_variables)  # now, or the training step would be traced twice

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a model from a `.keras` file with the arguments that the file holds."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def train_step(self, data: Any) -> dict[str, Tensor]:
        inputs = model_inputs(data)
        with tf.GradientTape() as tape:
            loss = self._loss(inputs, training=True)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        return self._logs(loss, inputs)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        inputs = model_inputs(data)
        return self._logs(self._loss(inputs, training=False), inputs)

    def predict_step(self, data: Any) -> Any:
        return self(**model_inputs(data), training=False)

    def _loss(self, inputs: dict[str, Tensor], training: bool) -> Tensor:
        loss = self(**inputs, training=training).get("loss")
        if loss is None:
            raise ValueError(f"{type(self).__name__} has no loss for {', '.join(inputs)}; give labels with each batch.")
        return loss + sum(self.losses)  # those of regularizers and other additions

    def _logs(self, loss: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        examples = tf.shape(next(iter(inputs.values())))[0]
        self._loss_tracker.update_state(loss, sample_weight=examples)
        return {metric.name: metric.result() for metric in self.metrics}

    def get_config(self) -> dict[str, Any]:
        """Return the values that `from_config` rebuilds the model from, without its weights."""
        return {
            "config": self.config.to_dict(),
            "generation_config": self.generation_config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Rebuild a model from the values of `get_config`, with all weights zero."""
        values = dict(config)
        kind = HEADS[model_name(cls)].config
        generation = GenerationConfig.from_dict(values.pop("generation_config"))
        with dtype_policy(keras.dtype_policies.deserialize(values.pop("dtype"))):
            model = cls(kind.from_dict(values.pop("config")), initialize=False, **values)
        model.generation_config = generation
        return model


def model_inputs(data: Any) -> dict[str, Tensor]:
    """Turn a batch of `fit` into keyword arguments of a model; raises `ValueError` for other batches."""
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(inputs, dict) or weights is not None:
        raise ValueError("A batch must be a dictionary of the model's inputs, or one and its labels.")
    return inputs if labels is None else {**inputs, "labels": labels}


def model_name(cls: type) -> str:
    """The name under which the weight table knows a model class, or one derived from it."""
    names = [base.__name__.removeprefix("TF") for base in cls.__mro__]
    return next((name for name in names if name in HEADS), names[0])


@contextmanager
def dtype_policy(policy: Any) -> Iterator[None]:
    """Make layers of this precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
