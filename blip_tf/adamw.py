"""AdamW for `blip_tf.trainer`, with loss scaling for float16."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core.training.settings import Settings
from blip_tf.distributed import assign, raw

FIRST_SCALE, GROWTH = 2.0**16, 2000
"""Loss scaling as in PyTorch: the first factor, and the number of finite steps after which it doubles."""


class AdamW:
    """AdamW as in PyTorch, which adds `epsilon` to the corrected second moment, where Keras adds it to the raw one.

    In float16 the loss is scaled by a factor that is halved, and the step skipped, when gradients are not finite, and
    doubled after many finite steps.
    """

    def __init__(self, weights: Sequence[keras.Variable], settings: Settings):
        self.weights, self.settings = weights, settings
        self.half = settings.precision == "float16"
        self.first, self.second = ([_variable(np.zeros(w.shape, np.float32)) for w in weights] for _ in range(2))
        self.steps = _variable(np.float32(0))
        self.scale, self.good_steps = _variable(np.float32(FIRST_SCALE)), _variable(np.int64(0))

    def scaled(self, loss: Tensor) -> Tensor:
        """Scale the loss, in float16."""
        return loss * raw(self.scale) if self.half else loss

    def unscaled(self, gradients: list[Tensor]) -> list[Tensor]:
        """Undo the scaling in the gradients."""
        return [gradient / raw(self.scale) for gradient in gradients] if self.half else gradients

    def apply(self, gradients: list[Tensor], rate: Tensor, finite: Tensor) -> None:
        """Update the weights by one step, or leave them as they are if the gradients are not `finite`."""
        settings, steps = self.settings, raw(self.steps) + 1
        unbias1, unbias2 = (
            tf.cast(1 - tf.constant(beta, tf.float64) ** tf.cast(steps, tf.float64), tf.float32)
            for beta in (settings.beta1, settings.beta2)
        )
        variables: list[keras.Variable] = [self.steps]
        values: list[Tensor] = [steps]
        for weight, first, second, gradient in zip(self.weights, self.first, self.second, gradients, strict=True):
            decay = settings.weight_decay if settings.weight_decay_on == "all" or len(weight.shape) > 1 else 0.0
            mean = raw(first) + (gradient - raw(first)) * (1 - settings.beta1)
            square = raw(second) * settings.beta2 + gradient * gradient * (1 - settings.beta2)
            size = tf.sqrt(square) / tf.sqrt(unbias2) + settings.epsilon
            variables += [weight, first, second]
            values += [raw(weight) * (1 - rate * decay) - rate / unbias1 * mean / size, mean, square]
        values = [tf.where(finite, value, raw(old)) for old, value in zip(variables, values, strict=True)]
        if self.half:
            good = tf.where(finite, raw(self.good_steps) + 1, 0)
            grown = tf.where(good == GROWTH, raw(self.scale) * 2, raw(self.scale))
            variables += [self.scale, self.good_steps]
            values += [
                tf.where(finite, grown, raw(self.scale) / 2),
                tf.where(good == GROWTH, tf.zeros_like(good), good),
            ]
        assign(variables, values)


def _variable(value: np.ndarray | np.generic) -> keras.Variable:
    """A variable that is not trained, and that no mixed-precision policy casts."""
    return keras.Variable(value, dtype=value.dtype.name, trainable=False, autocast=False)
