"""What only Keras asks of a model: `compile` and `fit` with the model's own loss, and `.keras` files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, GenerationConfig
from blip_core.pretrained import CONFIGS


class KerasModel(keras.Model):
    """A model whose `call` takes what the processor gives, by name, and returns an output with a `loss`.

    `fit` and `evaluate` take batches that are such dictionaries, `labels` (or whatever the loss needs) included, or
    pairs of a dictionary and its labels.
    """

    def compile(self, optimizer: Any = "adam", **options: Any) -> None:
        """Prepare `fit`; options as in `keras.Model.compile`. The loss is the model's own.

        Raises `ValueError` for a loss or metrics, which would not be computed.
        """
        if given := [name for name in ("loss", "loss_weights", "metrics", "weighted_metrics") if options.get(name)]:
            raise ValueError(f"The model computes its own loss; leave out {', '.join(given)}.")
        super().compile(optimizer=optimizer, **options)

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
        """What rebuilds the model, without its weights."""
        return {
            "config": self.config.to_dict(),
            "generation_config": self.generation_config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Rebuild a model of `get_config`, with weights of zero."""
        values = dict(config)
        kind = CONFIGS.get(model_name(cls), BlipConfig)
        generation = GenerationConfig.from_dict(values.pop("generation_config"))
        with dtype_policy(keras.dtype_policies.deserialize(values.pop("dtype"))):
            model = cls(kind.from_dict(values.pop("config")), initialize=False, **values)
        model.generation_config = generation
        return model


def model_inputs(data: Any) -> dict[str, Tensor]:
    """A batch of `fit` as keyword arguments of a model. Raises `ValueError` for one that cannot be taken."""
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(inputs, dict) or weights is not None:
        raise ValueError("A batch must be a dictionary of the model's inputs, or one and its labels.")
    return inputs if labels is None else {**inputs, "labels": labels}


def model_name(cls: type) -> str:
    """The name under which the weight table knows a model class."""
    return cls.__name__.removeprefix("TF")


@contextmanager
def dtype_policy(policy: Any) -> Iterator[None]:
    """Make layers of this precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
