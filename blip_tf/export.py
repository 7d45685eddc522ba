"""Export to SavedModel and LiteRT, for processes that have TensorFlow or LiteRT but not this package.

Shapes: B texts (or pairs), L tokens, T image tokens, W width. Tokens and masks are int32.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextConfig
from blip_core.files import atomic_path
from blip_tf.nn import sizes

Tensors = dict[str, Tensor]
Signature = tuple[Callable[..., Tensors], dict[str, tf.TensorSpec]]


def export_saved_model(model: Any, folder: str | Path, max_new_tokens: int) -> None:
    """Write a SavedModel; see `export` of the models."""
    folder = Path(folder)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens!r}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already; remove it, or export into another folder.")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        write_saved_model(model, temporary, signatures(model, max_new_tokens))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def export_litert(model: Any, path: str | Path, quantize: bool) -> None:
    """Write the encoders to a LiteRT file; see `export_litert` of the models."""
    if model.compute_dtype != "float32":
        raise ValueError(
            f"LiteRT computes in float32, this model in {model.compute_dtype}; load it with dtype='float32'."
        )
    encoders = {
        k: v for k, v in signatures(model, 1).items() if k in ("image_features", "text_features", "text_states")
    }
    if not encoders:
        raise ValueError(f"{type(model).__name__} has no encoder to run by itself; use export.")
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        write_saved_model(model, Path(folder), encoders)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, list(encoders))
        converter.optimizations = [tf.lite.Optimize.DEFAULT] * quantize
        temporary.write_bytes(converter.convert())


def write_saved_model(model: Any, folder: Path, wanted: dict[str, Signature]) -> None:
    """Trace each signature once, for all sizes that its inputs leave open, and write all with the weights."""
    module = tf.Module()
    module.parameters = {p.name: model.get_parameter(p.name).value for p in model.table()}
    functions = {
        name: tf.function(function, autograph=False).get_concrete_function(
            **{argument: tf.TensorSpec(spec.shape, spec.dtype, argument) for argument, spec in inputs.items()}
        )
        for name, (function, inputs) in wanted.items()
    }
    tf.saved_model.save(module, str(folder), functions)


def signatures(model: Any, max_new_tokens: int) -> dict[str, Signature]:
    """The signatures that a model's parts allow: by name, a function of named tensors and their shapes and types."""
    found: dict[str, Signature] = {}
    texts = {"input_ids": whole(None, None), "attention_mask": whole(None, None)}
    vision = getattr(model, "vision_model", model if hasattr(model, "post_layernorm") else None)
    decoder = getattr(model, "text_decoder", model if hasattr(model, "cls") else None)
    if hasattr(model, "pooler"):
        found["text_states"] = lambda **given: {"last_hidden_state": model(**given).last_hidden_state}, texts
    if hasattr(model, "get_text_features"):
        found["text_features"] = lambda **given: {"text_features": model.get_text_features(**given)}, texts
    if decoder is not None:
        found |= decoding(decoder)
    if vision is None:
        return found
    config = vision.config
    picture = (None, config.num_channels, config.image_size, config.image_size)
    pixels = {"pixel_values": tf.TensorSpec(picture, tf.float32)}
    embeds = {"image_embeds": tf.TensorSpec((None, config.num_positions, config.hidden_size), model.compute_dtype)}
    found["image_features"] = partial(image_features, model, vision), pixels
    if hasattr(model, "classify"):
        found["itm_scores"] = lambda **given: {"itm_score": model(**given).itm_score}, embeds | texts
        found["itc_scores"] = (
            lambda **given: {"itc_score": model(**given, use_itm_head=False).itm_score},
            embeds | texts,
        )
    if hasattr(model, "encode_question"):
        found["question_states"] = partial(question_states, model), embeds | texts
        found["answer"] = partial(answer, model, max_new_tokens), pixels | texts
    elif decoder is not None:
        found["caption"] = partial(caption, model, max_new_tokens), pixels | texts
    return found


def whole(*shape: int | None) -> tf.TensorSpec:
    """The shape of an int32 tensor."""
    return tf.TensorSpec(shape, tf.int32)


def image_features(model: Any, vision: Any, pixel_values: Tensor) -> Tensors:
    """Pictures -> embeddings (B, T, W) and, where the model has a projection, its features."""
    output = vision(pixel_values)
    found = {"image_embeds": output.last_hidden_state, "pooler_output": output.pooler_output}
    if hasattr(model, "itm_head"):
        found["image_features"] = model.get_image_features(image_embeds=output.last_hidden_state)
    elif hasattr(model, "visual_projection"):
        found["image_features"] = model.visual_projection(output.pooler_output)
    return found


def caption(
    model: Any, max_new_tokens: int, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> Tensors:
    """Pictures and tokenized prompts (`[CLS] [SEP]` for none) -> captions, as `generate` gives them."""
    embeds = model.encode_image(pixel_values, None, False).last_hidden_state
    ids, mask = prompts(input_ids, attention_mask, model.config.text_config)
    return {"sequences": greedy(model.text_decoder, embeds, None, ids, mask, max_new_tokens)}


def question_states(model: Any, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensors:
    """Image embeddings and questions -> states (B, L, W), which the answer decoder reads."""
    return {"encoder_states": model.encode_question(None, image_embeds, False, input_ids, attention_mask)[1]}


def answer(model: Any, max_new_tokens: int, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensors:
    """Pictures and questions -> answers, which begin with `[DEC]`."""
    _, states = model.encode_question(pixel_values, None, False, input_ids, attention_mask)
    begin = [model.config.text_config.bos_token_id, *(model.generation_config.prompt_ids or [])]
    ids = tf.tile([begin], (sizes(states)[0], 1))
    return {"sequences": greedy(model.text_decoder, states, attention_mask, ids, tf.ones_like(ids), max_new_tokens)}


def prompts(ids: Tensor, mask: Tensor, config: BlipTextConfig) -> tuple[Tensor, Tensor]:
    """The beginnings of captions (B, L) and their mask, as `decoder_prompts` makes them."""
    order = tf.argsort(mask, axis=1, direction="DESCENDING", stable=True)  # padding moves to the right
    ids, mask = tf.gather(ids, order, batch_dims=1), tf.gather(mask, order, batch_dims=1)
    place, count = tf.range(sizes(ids)[1])[None], tf.reduce_sum(mask, axis=1, keepdims=True)
    closing = (place == count - 1) & (count > 1) & (ids == config.sep_token_id)
    mask = tf.where(closing, 0, mask)
    ids = tf.where(mask == 1, ids, config.pad_token_id)
    return tf.where(place == 0, config.bos_token_id, ids), mask


def greedy(
    decoder: Any, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor, max_new_tokens: int
) -> Tensor:
    """Greedy search: append the most likely token to prompts (B, L), padded on the right, up to `[SEP]`.

    At most `max_new_tokens` are appended. Returns each row's prompt and new tokens, padded on the right.
    """
    config, graphs = decoder.config, decoder.decoding_graphs
    rows, length = sizes(ids)
    capacity, room = length + max_new_tokens, [[0, 0], [0, max_new_tokens]]
    states_mask = tf.ones(sizes(states)[:2], tf.int32) if states_mask is None else states_mask
    crosses, empty, places = graphs.begin(states), graphs.empty(rows, capacity), tf.range(capacity)[None]

    def choose(logits: Tensor, texts: Tensor, ends: Tensor, ended: Tensor) -> tuple[Tensor, ...]:
        token = tf.argmax(logits, axis=1, output_type=tf.int32)  # (B,)
        texts = tf.where((places == ends[:, None]) & ~ended[:, None], token[:, None], texts)
        ends = tf.where(ended, ends, ends + 1)
        return token, texts, ends, ended | (token == config.sep_token_id) | (ends == config.max_position_embeddings)

    def unfinished(count: Tensor, token: Tensor, texts: Tensor, ends: Tensor, ended: Tensor, *_: Any) -> Tensor:
        return (count < max_new_tokens) & ~tf.reduce_all(ended)

    def go_on(
        count: Tensor, token: Tensor, texts: Tensor, ends: Tensor, ended: Tensor, real: Tensor, own: Any
    ) -> tuple[Any, ...]:
        at = length + count - 1
        real = tf.where(places == at, 1, real)
        layers = list(zip(own, crosses, strict=True))
        logits, new = graphs.extend(token[:, None], real, at, layers, states_mask)
        own = tf.nest.map_structure(lambda new, old: tf.ensure_shape(new, old.shape), new, own)
        return count + 1, *choose(logits, texts, ends, ended), real, own

    real, texts = tf.pad(mask, room), tf.pad(ids, room, constant_values=config.pad_token_id)
    layers = [((empty, empty), cross) for cross in crosses]
    logits, own = graphs.extend(ids, real, tf.constant(0), layers, states_mask)
    first = choose(logits, texts, tf.reduce_sum(mask, axis=1), tf.zeros(rows, tf.bool))
    _, _, texts, ends, *_ = tf.while_loop(unfinished, go_on, (tf.constant(1), *first, real, own))
    return texts[:, : tf.reduce_max(ends)]


def decoding(decoder: Any) -> dict[str, Signature]:
    """Signatures of a single decoding step, for searches outside the graph; layers are stacked along the first axis."""
    graphs, config, kind = decoder.decoding_graphs, decoder.config, decoder.compute_dtype
    states = tf.TensorSpec((None, None, config.encoder_hidden_size), kind)
    keys = tf.TensorSpec((config.num_hidden_layers, None, graphs.heads, None, graphs.head_width), kind)

    def begin(encoder_states: Tensor, rows: Tensor, capacity: Tensor) -> Tensors:
        cross_keys, cross_values = zip(*graphs.begin(encoder_states), strict=True)
        empty = tf.repeat(graphs.empty(rows, capacity)[None], config.num_hidden_layers, axis=0)
        cross = {"cross_keys": tf.stack(cross_keys), "cross_values": tf.stack(cross_values)}
        return {"keys": empty, "values": empty, **cross}

    def step(
        input_ids: Tensor, attention_mask: Tensor, length: Tensor, encoder_attention_mask: Tensor, **caches: Tensor
    ) -> Tensors:
        keys, values, cross_keys, cross_values = (tf.unstack(caches[name]) for name in names)
        layers = list(zip(zip(keys, values, strict=True), zip(cross_keys, cross_values, strict=True), strict=True))
        logits, own = graphs.extend(input_ids, attention_mask, length, layers, encoder_attention_mask)
        keys, values = (tf.stack(each) for each in zip(*own, strict=True))
        return {"logits": logits, "keys": keys, "values": values}

    names = ("keys", "values", "cross_keys", "cross_values")
    masks = {"attention_mask": whole(None, None), "encoder_attention_mask": whole(None, None)}
    return {
        "begin": (begin, {"encoder_states": states, "rows": whole(), "capacity": whole()}),
        "step": (step, {"input_ids": whole(None, None), "length": whole(), **masks, **dict.fromkeys(names, keys)}),
    }
