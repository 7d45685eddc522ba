"""Greedy search as operations of a graph: what begins it, and what adds a token to each text.

Between them is a state: `texts` int32 (R, C), whose tokens reach up to `ends` (R,); `token` (R,), the last of each;
`ended` (R,), bool; `real` (R, C), the attention mask of the cached tokens; `length`, how many of C are cached; and the
other inputs of `step`. R rows, one for each picture; L tokens; C = L + the most new ones.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipTextConfig
from blip_tf.nn import sizes
from blip_tf.parts import Tensors, begin, grounded, image_features, step

FIXED = ("encoder_attention_mask", "cross_keys", "cross_values")
"""What stays as it is."""
CACHES = ("keys", "values")
"""What grows by the tokens that are read."""


def start(model: Any, max_new_tokens: int, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensors:
    """Read pictures with prompts (`[CLS] [SEP]` for none) or questions, and choose the first tokens."""
    states, config = image_features(model, pixel_values)["image_embeds"], model.config.text_config
    if hasattr(model, "encode_question"):
        states, states_mask = grounded(model, states, input_ids, attention_mask), attention_mask
        ids = tf.constant([[config.bos_token_id, *(model.generation_config.prompt_ids or [])]])
        mask = tf.ones_like(ids)
    else:
        states_mask = tf.ones(sizes(states)[:2], tf.int32)
        ids, mask = prompts(input_ids, attention_mask, config)
    ids, mask = (tf.broadcast_to(given, (sizes(states)[0], sizes(ids)[1])) for given in (ids, mask))
    room, ends = [[0, 0], [0, max_new_tokens]], tf.reduce_sum(mask, axis=1)
    texts, real = tf.pad(ids, room, constant_values=config.pad_token_id), tf.pad(mask, room)
    state = {"length": tf.constant(0), "texts": texts, "real": real, "ends": ends}
    state |= {"ended": ends < 0, "encoder_attention_mask": states_mask}
    state |= begin(model, states, *sizes(texts))
    return choose(model, state, ids)


def prompts(ids: Tensor, mask: Tensor, config: BlipTextConfig) -> tuple[Tensor, Tensor]:
    """The beginnings of captions (B, L) and their mask, as `decoder_prompts` makes them."""
    place = tf.range(sizes(ids)[1])[None]
    order = tf.argsort((1 - mask) * sizes(ids)[1] + place, axis=1)  # padding moves to the right
    ids, mask = tf.gather(ids, order, batch_dims=1), tf.gather(mask, order, batch_dims=1)
    count = tf.reduce_sum(mask, axis=1, keepdims=True)
    closing = (place == count - 1) & (count > 1) & (ids == config.sep_token_id)
    mask = tf.where(closing, 0, mask)
    ids = tf.where(mask == 0, config.pad_token_id, ids)
    return tf.where(place == 0, config.bos_token_id, ids), mask


def advance(model: Any, state: Tensors) -> Tensors:
    """Read the last token of each text and choose the next."""
    real = tf.where(tf.range(sizes(state["real"])[1]) == state["length"], 1, state["real"])
    return choose(model, {**state, "real": real}, state["token"][:, None])


def choose(model: Any, state: Tensors, ids: Tensor) -> Tensors:
    """Read tokens (R, new) and append the most likely one to each text that has not ended."""
    found = step(model, ids, state["real"], state["length"], **{name: state[name] for name in (*FIXED, *CACHES)})
    token, ends, ended = tf.argmax(found["logits"], axis=1, output_type=tf.int32), state["ends"], state["ended"]
    here = (tf.range(sizes(state["texts"])[1]) == ends[:, None]) & ~ended[:, None]
    texts, ends = tf.where(here, token[:, None], state["texts"]), tf.where(ended, ends, ends + 1)
    config = model.config.text_config
    ended = ended | (token == config.sep_token_id) | (ends == config.max_position_embeddings)
    changed = {"length": state["length"] + sizes(ids)[1], "token": token, "texts": texts, "ends": ends, "ended": ended}
    return {**state, **changed, **{name: found[name] for name in CACHES}}
