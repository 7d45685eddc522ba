"""Greedy search as operations of a graph: what begins it, and what adds a token to each text.

Between them is a state: `texts` int32 (R, C), whose tokens reach up to `ends` (R,); `token` (R,), the last of each;
`ended` (R,), bool; `real` (R, C), the attention mask of the cached tokens; `length`, how many of C are cached; and the
other inputs of `step`. R rows, one for each picture; L tokens; C = L + the most new ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_core import BlipTextConfig
from blip_pt.parts import Tensors, begin, grounded, image_features, step

FIXED = ("encoder_attention_mask", "cross_keys", "cross_values")
"""What stays as it is."""
CACHES = ("keys", "values")
"""What grows by the tokens that are read."""


def start(model: Any, max_new_tokens: int, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensors:
    """Read pictures with prompts (`[CLS] [SEP]` for none) or questions, and choose the first tokens."""
    states, config = image_features(model, pixel_values)["image_embeds"], model.config.text_config
    if hasattr(model, "encode_question"):
        states, states_mask = grounded(model, states, input_ids, attention_mask), attention_mask
        first = torch.tensor([[config.bos_token_id, *(model.generation_config.prompt_ids or [])]], dtype=torch.int32)
        ids = first.expand(states.shape[0], -1)
        mask = torch.ones_like(ids)
    else:
        states_mask = torch.ones_like(states[..., 0], dtype=torch.int32)
        ids, mask = (given.expand(states.shape[0], -1) for given in prompts(input_ids, attention_mask, config))
    room, ends = (0, max_new_tokens), mask.sum(1)
    texts, real = F.pad(ids, room, value=config.pad_token_id), F.pad(mask, room)
    state = {"length": torch.zeros((), dtype=torch.int64), "texts": texts, "real": real, "ends": ends}
    state |= {"ended": ends < 0, "encoder_attention_mask": states_mask}
    state |= begin(model, states, torch.ones_like(ends).sum(), torch.ones_like(texts[0]).sum())
    return choose(model, state, ids)


def prompts(ids: Tensor, mask: Tensor, config: BlipTextConfig) -> tuple[Tensor, Tensor]:
    """The beginnings of captions (B, L) and their mask, as `decoder_prompts` makes them."""
    place = torch.arange(ids.shape[1], dtype=torch.int32)[None]
    order = ((1 - mask) * ids.shape[1] + place).argsort(1)  # padding moves to the right
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    count = mask.sum(1, keepdim=True)
    closing = (place == count - 1) & (count > 1) & (ids == config.sep_token_id)
    mask = mask.masked_fill(closing, 0)
    ids = ids.masked_fill(mask == 0, config.pad_token_id)
    return ids.masked_fill(place == 0, config.bos_token_id), mask


def advance(model: Any, state: Tensors) -> Tensors:
    """Read the last token of each text and choose the next."""
    real = state["real"].masked_fill(torch.arange(state["real"].shape[1]) == state["length"], 1)
    return choose(model, {**state, "real": real}, state["token"][:, None])


def choose(model: Any, state: Tensors, ids: Tensor) -> Tensors:
    """Read tokens (R, new) and append the most likely one to each text that has not ended."""
    found = step(model, ids, state["real"], state["length"], **{name: state[name] for name in (*FIXED, *CACHES)})
    token, ends, ended = found["logits"].argmax(1).to(torch.int32), state["ends"], state["ended"]
    here = (torch.arange(state["texts"].shape[1]) == ends[:, None]) & ~ended[:, None]
    texts, ends = torch.where(here, token[:, None], state["texts"]), torch.where(ended, ends, ends + 1)
    config = model.config.text_config
    ended = ended | (token == config.sep_token_id) | (ends == config.max_position_embeddings)
    changed = {"length": state["length"] + ids.shape[1], "token": token, "texts": texts, "ends": ends, "ended": ended}
    return {**state, **changed, **{name: found[name] for name in CACHES}}
