"""The layers that BLIP is made of. Models initialise their weights (see `base.py`), layers leave them zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU, approximated by tanh."""
    return tf.nn.gelu(x, approximate=True)


def quick_gelu(x: Tensor) -> Tensor:
    """GELU, approximated by a sigmoid."""
    return x * tf.sigmoid(1.702 * x)


def mish(x: Tensor) -> Tensor:
    """Mish (arXiv 1908.08681)."""
    return x * tf.tanh(tf.nn.softplus(x))


ACTIVATIONS: dict[str, Activation] = {
    "gelu": tf.nn.gelu,
    "gelu_python": tf.nn.gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "mish": mish,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "linear": tf.identity,
}


class Layer(keras.layers.Layer):
    """A Keras layer that is built by its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.built = True


class Linear(Layer):
    """Linear layer x (..., in) -> (..., out) with an optional fused activation. The weight is (in, out)."""

    def __init__(self, into: int, out: int, bias: bool = True):
        super().__init__()
        self.weight = self.add_weight(name="weight", shape=(into, out), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(out,), initializer="zeros") if bias else None

    def call(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, activation)


class LoraLinear(Layer):
    """A `Linear` that stays as it is, and a change of low rank that is trained: x W + b + scale * (x A) B."""

    def __init__(self, layer: Linear, rank: int, scale: float):
        super().__init__()
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        into, out = layer.weight.shape
        self.lora_A = Linear(into, rank, bias=False)
        self.lora_B = Linear(rank, out, bias=False)

    def call(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + self.scale * self.lora_B(self.lora_A(x))


class TiedLinear(Layer):
    """x (..., in) -> (..., out) by a weight (out, in) and a bias that belong to other layers, which save them."""

    weight: keras.Variable
    bias: keras.Variable

    def call(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, transpose=True)

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        pass


class Sequential(Layer):
    """Layers and activations one after the other, each an attribute named by its number."""

    def __init__(self, *steps: Activation):
        super().__init__()
        self.names = [str(index) for index in range(len(steps))]
        for name, step in zip(self.names, steps, strict=True):
            setattr(self, name, step)

    def call(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class LayerNorm(Layer):
    """Normalises the last axis, in float32 at least."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = self.add_weight(name="weight", shape=(width,), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        centred = wide(x)
        centred -= tf.reduce_mean(centred, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return tf.cast(centred * tf.math.rsqrt(variance + self.eps), x.dtype) * self.weight + self.bias


class Embedding(Layer):
    """ids (...) -> (..., width). Lookups of `padding_idx` contribute no gradient."""

    def __init__(self, count: int, width: int, padding_idx: int | None = None):
        super().__init__()
        self.padding_idx = padding_idx
        self.weight = self.add_weight(name="weight", shape=(count, width), initializer="zeros")

    def call(self, ids: Tensor) -> Tensor:
        x = lookup(tf.convert_to_tensor(self.weight), ids)
        if self.padding_idx is None:
            return x
        return tf.where(tf.expand_dims(ids == self.padding_idx, -1), tf.stop_gradient(x), x)


class PatchEmbedding(Layer):
    """pictures (batch, channels, height, width) -> patches (batch, patches, out), row by row."""

    def __init__(self, channels: int, out: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.weight = self.add_weight(name="weight", shape=(patch_size, patch_size, channels, out), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(out,), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        x = tf.transpose(x, (0, 2, 3, 1))  # (batch, height, width, channels)
        x = tf.nn.bias_add(tf.nn.conv2d(x, self.weight, strides=self.patch_size, padding="VALID"), self.bias)
        return tf.reshape(x, (sizes(x)[0], -1, self.bias.shape[0]))  # (batch, patches, out)


@tf.custom_gradient
def lookup(table: Tensor, ids: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, None]]]:
    """table (count, ...), ids of any shape -> (*ids, ...), with a dense gradient.

    The gradient of `tf.gather` is sparse. Keras's optimizers would update the rows in it alone, where PyTorch's AdamW
    moves all rows by their moments.
    """

    def gradient(above: Tensor) -> tuple[Tensor, None]:
        count, *rest = sizes(table)
        rows = tf.reshape(above, (-1, *rest))
        return tf.math.unsorted_segment_sum(rows, tf.reshape(ids, (-1,)), count), None

    return tf.gather(table, ids), gradient


def activated(layer: Layer, x: Tensor, activation: Activation) -> Tensor:
    """Apply a layer and an activation, fused where the layer is a `Linear` and no adapter around one."""
    return layer(x, activation=activation) if type(layer) is Linear else activation(layer(x))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None = None, transpose: bool = False
) -> Tensor:
    """x (..., in) -> (..., out) by a weight (in, out), or (out, in) with `transpose`, then the activation."""
    *rest, into = sizes(x)
    product = tf.matmul(tf.reshape(x, (-1, into)), weight, transpose_b=transpose)  # one product, whatever the rank of x
    product = product if bias is None else tf.nn.bias_add(product, bias)
    product = product if activation is None else activation(product)  # here, where a graph can fuse it with the product
    return tf.reshape(product, (*rest, product.shape[1]))


def sizes(x: Tensor) -> list[int | Tensor]:
    """The shape of a tensor: integers, and tensors where a size is not known while a graph is traced."""
    if None not in x.shape:
        return list(x.shape)
    traced = tf.shape(x)
    return [traced[axis] if size is None else size for axis, size in enumerate(x.shape)]


def wide(x: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def to_array(x: Tensor | np.ndarray) -> np.ndarray:
    """A tensor as a NumPy array; half precision becomes float32."""
    array = np.asarray(x)
    return array if array.dtype.kind in "iu" else array.astype(np.float32)


def normalize(x: Tensor) -> Tensor:
    """x / its length on the last axis, at least 1e-12."""
    return x / tf.maximum(tf.norm(x, axis=-1, keepdims=True), 1e-12)


SEEDS: ContextVar[Iterator[Tensor] | None] = ContextVar("SEEDS", default=None)


@contextmanager
def dropout_seed(seed: Tensor) -> Iterator[None]:
    """Make dropout a function of `seed` (2,), so that it can be repeated."""
    token = SEEDS.set(tf.random.fold_in(seed, i) for i in count())
    try:
        yield
    finally:
        SEEDS.reset(token)


def next_seed() -> Tensor:
    """The next seed (2,) for dropout: from `dropout_seed`, else from TensorFlow's global generator."""
    seeds = SEEDS.get()
    return tf.random.uniform((2,), maxval=2**31 - 1, dtype=tf.int32) if seeds is None else next(seeds)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """In training, set elements to 0 at random and scale up the others; `dropout_seed` fixes which."""
    if not training or not rate:
        return x
    seeds = SEEDS.get()
    if seeds is None:
        return tf.nn.dropout(x, rate)
    return tf.nn.experimental.stateless_dropout(x, rate, seed=next(seeds))


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: in training, drop the residual x (B, T, W) of some pictures and scale up the others'."""
    if not training or not rate:
        return x
    return x * dropout(tf.ones((sizes(x)[0], 1, 1), x.dtype), rate, training)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, width) -> (batch, heads, length, head width)."""
    batch, length, width = sizes(x)
    return tf.transpose(tf.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, head width) -> (batch, length, width)."""
    batch, heads, length, width = sizes(x)
    return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (batch, length, heads * width))


def over_heads(mask: Tensor) -> Tensor:
    """(batch, keys) or (batch, queries, keys) -> (batch, 1, 1 or queries, keys)."""
    mask = tf.expand_dims(mask, 1)
    return tf.expand_dims(mask, 1) if len(mask.shape) == 3 else mask


def causal_mask(mask: Tensor | None, length: int | Tensor, dtype: str, start: int | Tensor = 0) -> Tensor:
    """Additive mask (batch or 1, 1, length, keys): each token sees itself and the real tokens before it.

    `start` tokens come before the first of these `length`; `mask` has a place for all, and may have more.
    """
    keys = start + length if mask is None else sizes(mask)[-1]
    causal = tf.range(keys)[None] <= start + tf.range(length)[:, None]  # (length, keys)
    causal = tf.cast(causal, tf.int32)[None, None]
    return additive_mask(causal if mask is None else causal * tf.cast(over_heads(mask), tf.int32), dtype)


def additive_mask(mask: Tensor, dtype: str) -> Tensor:
    """1 where to attend, 0 where not -> 0 and the lowest number of `dtype`, to be added to the scores."""
    return (1 - tf.cast(mask, dtype)) * tf.as_dtype(dtype).min


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rate: float, output_attentions: bool
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention on (batch, heads, length, head width), with the probabilities if asked for.

    `mask` is added to the scores and broadcasts to (batch, heads, queries, keys); `rate` is that of dropout.
    """
    scores = tf.matmul(query * (1 / math.sqrt(query.shape[-1])), key, transpose_b=True)
    probabilities = tf.nn.softmax(wide(scores if mask is None else scores + mask))
    probabilities = tf.cast(probabilities, query.dtype)
    context = tf.matmul(dropout(probabilities, rate, training=True), value)
    return context, probabilities if output_attentions else None
