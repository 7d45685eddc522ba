"""Where texts begin and how their tokens are counted, on whichever side the padding is.

Shapes: B texts, L tokens, W width. Masks are (B, L), 1 for tokens and 0 for padding. Without one, or with one for each
token (B, L, L), all tokens are real. Each function is the same for a text alone and in any batch.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from blip_tf.nn import sizes


def real_tokens(mask: Tensor | None) -> Tensor | None:
    """What a mask says of tokens, int32 1 or 0 (B, L); None if all are real."""
    return None if mask is None or len(mask.shape) != 2 else tf.cast(tf.cast(mask, tf.bool), tf.int32)


def first_tokens(real: Tensor) -> Tensor:
    """The places (B,) of the first token that is 1 in each row of (B, L); 0 where none is."""
    return tf.reduce_sum(tf.cast(tf.cumsum(real, axis=1) == 0, tf.int32), axis=1) % sizes(real)[1]


def token_positions(mask: Tensor | None, length: int | Tensor) -> Tensor:
    """Positions (B, L) or (L,) that count the real tokens of each text; padding has its own place as its position."""
    places, real = tf.range(length), real_tokens(mask)
    return places if real is None else tf.where(real == 1, tf.cumsum(real, axis=1) - 1, places)


def first_states(states: Tensor, mask: Tensor | None) -> Tensor:
    """The states (B, W), of (B, L, W), of each text's first token."""
    real = real_tokens(mask)
    return states[:, 0] if real is None else tf.gather(states, first_tokens(real), batch_dims=1)


def begin_with(token: int | None, input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """Replace the first token of texts (B, L), unless `token` is None."""
    if token is None:
        return input_ids
    real, places = real_tokens(mask), tf.range(sizes(input_ids)[1])
    first = places == (0 if real is None else first_tokens(real)[:, None])  # (L,) or (B, L)
    return tf.where(first, tf.cast(token, input_ids.dtype), input_ids)


def answer_mask(labels: Tensor) -> Tensor:
    """The mask of answers (B, L) that are given as labels alone, 0 for padding on the left.

    An answer begins at its first label that is not -100. Where each begins with -100, and the longest with just one, it
    stands in the place of `[DEC]`, as in the labels of the processor.
    """
    counted = tf.cumsum(tf.cast(labels != -100, tf.int32), axis=1)
    before = tf.reduce_sum(tf.cast(counted == 0, tf.int32), axis=1)  # (B,) how often -100 comes first
    begin = before - tf.cast(tf.reduce_min(before) == 1, tf.int32)
    return tf.cast(tf.range(sizes(labels)[1]) >= begin[:, None], tf.int32)
