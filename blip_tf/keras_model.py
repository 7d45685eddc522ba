"""What only Keras asks of a model: `compile` and `fit` with the model's own loss, `.keras` files, `export`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, GenerationConfig
from blip_core.checkpoints.loading import CONFIGS
from blip_tf.export import export_litert, export_saved_model


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
        self.optimizer.build(self.trainable_variables)  # now, or the training step would be traced twice

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Prepare the `fit` of a model from a `.keras` file, which holds what `compile` was given."""
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

    def export(self, folder: str | Path, max_new_tokens: int = 20) -> None:
        """Write a TensorFlow SavedModel, which runs where this package is not installed.

        Its signatures, by what the model can do: `image_features`, `text_features`, `text_states`, `itm_scores`,
        `itc_scores`; `caption`, `answer` (greedy search of up to `max_new_tokens`, the whole loop in the graph);
        `question_states`, `begin`, `step` (for other searches). See docs/tensorflow.md for their tensors.
        Raises `ValueError` for a number below 1, and `OSError` where the folder holds something already.
        """
        export_saved_model(self, folder, max_new_tokens)

    def export_litert(self, path: str | Path, quantize: bool = False) -> None:
        """Write the encoders to a LiteRT file (`.tflite`), with their signatures of the SavedModel.

        They are `image_features`, `text_features`, `text_states`, as far as the model has them. `quantize` stores
        the weights of matrix products as int8. Raises `ValueError` for a text decoder, which has no encoder, and for
        a model that does not compute in float32.
        """
        export_litert(self, path, quantize)


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
