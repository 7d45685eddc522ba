"""The parts in which a model is exported, as functions of named tensors (see `blip_core.parameters.graph_parts`).

Shapes: B texts (or pairs), L tokens, T image tokens, W width, R rows, S encoder states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from blip_core.parameters.graph_parts import parts_of
from blip_tf.keras_model import model_name
from blip_tf.nn import sizes
from blip_tf.text_padding import first_states

Tensors = dict[str, Tensor]


def part_functions(model: Any) -> dict[str, Callable[..., Tensors]]:
    """The parts of a model that hold no whole search, by name."""
    return {
        part.name: partial(FUNCTIONS[part.name], model) for part in parts_of(model_name(type(model))) if not part.loop
    }


def image_features(model: Any, pixel_values: Tensor) -> Tensors:
    """Pictures -> embeddings (B, T, W) and, where the model has a projection, its features."""
    output = getattr(model, "vision_model", model)(pixel_values, interpolate_pos_encoding=True)
    found = {"image_embeds": output.last_hidden_state, "pooler_output": output.pooler_output}
    if hasattr(model, "itm_head"):
        found["image_features"] = model.get_image_features(image_embeds=output.last_hidden_state)
    elif hasattr(model, "visual_projection"):
        found["image_features"] = model.visual_projection(output.pooler_output)
    return found


def image_projection(model: Any, image_embeds: Tensor) -> Tensors:
    """Image embeddings -> their class tokens, projected (B, F) and not yet normalised."""
    return {"projected": model.vision_proj(image_embeds[:, 0])}


def text_states(model: Any, **texts: Tensor) -> Tensors:
    """Texts -> states (B, L, W)."""
    return {"last_hidden_state": model(**texts).last_hidden_state}


def text_features(model: Any, **texts: Tensor) -> Tensors:
    """Texts -> features (B, F) to compare with those of pictures."""
    return {"text_features": model.get_text_features(**texts)}


def grounded(model: Any, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Texts that are read with their pictures -> states (B, L, W)."""
    states: Tensor = model.text_encoder(
        model.grounded_ids(input_ids, attention_mask), attention_mask, encoder_hidden_states=image_embeds
    ).last_hidden_state
    return states


def itm_scores(model: Any, **given: Tensor) -> Tensors:
    """Pairs -> logits (B, 2) of the matching head."""
    return {"itm_score": model.itm_head(first_states(grounded(model, **given), given["attention_mask"]))}


def itc_scores(model: Any, image_embeds: Tensor, **texts: Tensor) -> Tensors:
    """Pictures and texts -> similarities (pictures, texts)."""
    pictures = model.get_image_features(image_embeds=image_embeds)
    return {"itc_score": tf.matmul(pictures, model.get_text_features(**texts), transpose_b=True)}


def nlvr_scores(model: Any, image_embeds: Tensor, **texts: Tensor) -> Tensors:
    """Pairs of pictures (B, 2, T, W) and texts -> logits (B, 2)."""
    batch, two, length, width = sizes(image_embeds)
    states = grounded(model, tf.reshape(image_embeds, (batch, two * length, width)), **texts)
    return {"logits": model.cls_head(first_states(states, texts["attention_mask"]))}


def class_scores(model: Any, **given: Tensor) -> Tensors:
    """Image embeddings and texts -> logits (B, classes)."""
    return {"logits": model.cls_head(first_states(grounded(model, **given), given["attention_mask"]))}


def question_states(model: Any, **given: Tensor) -> Tensors:
    """Image embeddings and questions -> states (B, L, W), which the answer decoder reads."""
    return {"encoder_states": grounded(model, **given)}


def begin(model: Any, encoder_states: Tensor, rows: Tensor, capacity: Tensor) -> Tensors:
    """Encoder states (pictures, S, W) -> caches; layers are stacked along the first axis."""
    graphs = getattr(model, "text_decoder", model).decoding_graphs
    crosses, empty = graphs.begin(encoder_states), graphs.empty(rows, capacity)
    names = ("cross_keys", "cross_values")
    cross = {name: tf.stack(each) for name, each in zip(names, zip(*crosses, strict=True), strict=True)}
    stacked = tf.stack([empty] * len(crosses))
    return {"keys": stacked, "values": stacked, **cross}


def step(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    length: Tensor,
    encoder_attention_mask: Tensor,
    **caches: Tensor,
) -> Tensors:
    """New tokens (R, L) behind `length` others -> logits (R, V) after each row's last real one, and the caches."""
    graphs = getattr(model, "text_decoder", model).decoding_graphs
    keys, values, cross_keys, cross_values = (
        tf.unstack(caches[name]) for name in ("keys", "values", "cross_keys", "cross_values")
    )
    layers = list(zip(zip(keys, values, strict=True), zip(cross_keys, cross_values, strict=True), strict=True))
    logits, own = graphs.extend(input_ids, attention_mask, length, layers, encoder_attention_mask)
    names = ("keys", "values")
    return {"logits": logits, **{n: tf.stack(each) for n, each in zip(names, zip(*own, strict=True), strict=True)}}


FUNCTIONS: dict[str, Callable[..., Tensors]] = {
    function.__name__: function
    for function in (
        image_features, image_projection, text_states, text_features, itm_scores, itc_scores, nlvr_scores,
        class_scores, question_states, begin, step,
    )
}  # fmt: skip
"""The parts by name."""
