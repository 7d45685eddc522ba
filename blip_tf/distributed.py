"""Several replicas that train together: each holds a part of the batch and sees all of it.

Outside a `tf.distribute` strategy, or with one replica, these functions return their input.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf
from tensorflow import Tensor


def processes() -> tuple[int | Tensor, int]:
    """Return the rank of this replica and the number of replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def gather(x: Tensor) -> Tensor:
    """Concatenate the parts (b, ...) of all replicas; gradients flow back to where a part came from."""
    if processes()[1] == 1:
        return x
    own = tf.identity(x)  # inputs of a step have no device, which workers need
    return tf.distribute.get_replica_context().all_gather(own, axis=0)


def same_length(input_ids: Tensor, attention_mask: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Pad texts (b, L) and their mask to the longest text of all replicas."""
    if processes()[1] == 1:
        return input_ids, attention_mask
    length = tf.shape(input_ids)[1]
    missing = [(0, 0), (0, tf.reduce_max(gather(length[None])) - length)]
    return tf.pad(input_ids, missing, constant_values=pad), tf.pad(attention_mask, missing)


def mean_over_processes(x: Tensor) -> Tensor:
    """Average a number over all replicas, without a gradient."""
    if processes()[1] == 1:
        return x
    return tf.stop_gradient(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, x))


def raw(variable: keras.Variable) -> tf.Variable:
    """TensorFlow's own variable, which Keras does not cast to half precision under a mixed policy."""
    return variable._value


def assign(variables: Sequence[keras.Variable], values: Sequence[Tensor]) -> None:
    """Assign new values, the same in all replicas, to variables."""
    if processes()[1] == 1:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return

    def update(strategy: tf.distribute.Strategy, *news: Tensor) -> None:
        for variable, value in zip(variables, news, strict=True):
            strategy.extended.update(raw(variable), lambda own, new: own.assign(new), args=(value,))

    tf.distribute.get_replica_context().merge_call(update, args=tuple(values))
