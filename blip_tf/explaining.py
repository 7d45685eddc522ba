"""Which part of a picture each token of a text goes by: cross-attention, and Grad-CAM on it.

Shapes: B texts, L tokens, H heads, T image tokens (the class token first).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow import Tensor

from blip_tf.nn import sizes, wide

Reader = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""From image embeddings (B or 1, T, width) to a score of each text (B,) and the cross-attention of each layer."""


def attention_maps(
    read: Reader, embeds: Tensor, real: Tensor | None, layer: int, method: str, grid: Sequence[int]
) -> Tensor:
    """Maps float32 (B, L, rows, columns) of what the tokens attend to in a layer, the mean over its heads.

    With `method="gradcam"` each probability of attention is weighted by the gradient of the text's score with respect
    to it, or by 0 where that is negative. `real` (B, L) is 1 for the tokens that have a map; the others' are 0.
    Source: Grad-CAM (arXiv 1610.02391) on cross-attention, as ALBEF and LAVIS compute it.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if method == "gradcam":
            tape.watch(embeds)
        score, attentions = read(embeds)
    maps = wide(attentions[layer])  # (B, H, L, T)
    if method == "gradcam":
        maps = maps * tf.nn.relu(wide(tape.gradient(score, attentions[layer])))
    maps = tf.reduce_mean(maps[..., 1:], axis=1)  # (B, L, patches)
    if real is not None:
        maps = maps * tf.cast(real, maps.dtype)[..., None]
    return tf.cast(tf.reshape(maps, (*sizes(maps)[:2], *grid)), tf.float32)
