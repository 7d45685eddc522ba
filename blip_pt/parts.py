"""The parts in which a model is exported, as functions of named tensors (see `blip_core.parameters.graph_parts`).

Shapes: B texts (or pairs), L tokens, T image tokens, W width, R rows, C capacity in tokens, S encoder states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blip_core.parameters.graph_parts import parts_of
from blip_pt.base import model_name
from blip_pt.decoding import LayerCache, TextCache
from blip_pt.nn import additive_mask, over_heads
from blip_pt.text_padding import first_states

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
    return {"itc_score": pictures @ model.get_text_features(**texts).T}


def nlvr_scores(model: Any, image_embeds: Tensor, **texts: Tensor) -> Tensors:
    """Pairs of pictures (B, 2, T, W) and texts -> logits (B, 2)."""
    states = grounded(model, image_embeds.flatten(1, 2), **texts)
    return {"logits": model.cls_head(first_states(states, texts["attention_mask"]))}


def class_scores(model: Any, **given: Tensor) -> Tensors:
    """Image embeddings and texts -> logits (B, classes)."""
    return {"logits": model.cls_head(first_states(grounded(model, **given), given["attention_mask"]))}


def question_states(model: Any, **given: Tensor) -> Tensors:
    """Image embeddings and questions -> states (B, L, W), which the answer decoder reads."""
    return {"encoder_states": grounded(model, **given)}


def begin(model: Any, encoder_states: Tensor, rows: Tensor, capacity: Tensor) -> Tensors:
    """Encoder states (pictures, S, W) -> caches; layers are stacked along the first axis."""
    decoder = getattr(model, "text_decoder", model)
    heads = decoder.config.num_attention_heads
    crosses = [layer.crossattention.keys_values(encoder_states) for layer in decoder.bert.encoder.layer]
    shape = (len(crosses), size(rows), heads, size(capacity), decoder.config.hidden_size // heads)
    names = ("cross_keys", "cross_values")
    cross = {name: torch.stack(each) for name, each in zip(names, zip(*crosses, strict=True), strict=True)}
    return {"keys": encoder_states.new_zeros(shape), "values": encoder_states.new_zeros(shape), **cross}


def step(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    length: Tensor,
    encoder_attention_mask: Tensor,
    **caches: Tensor,
) -> Tensors:
    """New tokens (R, L) behind `length` others -> logits (R, V) after each row's last real one, and the caches."""
    decoder = getattr(model, "text_decoder", model)
    kind, new = caches["keys"].dtype, input_ids.shape[1]
    own = length + torch.arange(new, device=input_ids.device)  # the places of the new tokens
    places = torch.arange(attention_mask.shape[1], device=input_ids.device)
    stacked = (caches[name].unbind(0) for name in ("keys", "values", "cross_keys", "cross_values"))
    layers: list[LayerCache] = [FixedCache(k, v, (ck, cv), own) for k, v, ck, cv in zip(*stacked, strict=True)]
    cache = TextCache(layers, additive_mask(over_heads(encoder_attention_mask), kind))
    seen = (places <= own[:, None]).to(attention_mask.dtype) * attention_mask[:, None]  # (R, L, C)
    cache.mask = additive_mask(over_heads(seen), kind)
    cache.positions = (attention_mask.cumsum(1)[:, own] - 1).clamp(min=0)  # (R, L)
    hidden = decoder.bert(input_ids, cache=cache).last_hidden_state  # (R, L, W)
    last = attention_mask[:, own].sum(1) - 1  # (R,)
    at = last[:, None, None].expand(-1, -1, hidden.shape[2])
    logits = decoder.cls(hidden.gather(1, at)[:, 0])
    names = ("keys", "values")
    return {"logits": logits.float(), **{name: torch.stack([getattr(x, name[:-1]) for x in layers]) for name in names}}


class FixedCache(LayerCache):
    """A layer's cache as a graph has it: `own` (L,), the places of new tokens, are numbers that the graph computes.

    Keys and values of the texts (R, H, C, D) have room for all C tokens; nothing is written in place.
    """

    def __init__(self, key: Tensor, value: Tensor, cross: tuple[Tensor, Tensor], own: Tensor):
        super().__init__(key, value, cross)
        at = torch.arange(key.shape[2], device=key.device) - own[0]
        self.fresh = ((at >= 0) & (at < own.shape[0]))[:, None]  # (C, 1)
        self.source = at.clamp(min=0).minimum(own[-1] - own[0])  # (C,)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the keys and values (R, H, L, D) of new tokens in their places; return those of all C places."""
        self.key = torch.where(self.fresh, key[:, :, self.source], self.key)
        self.value = torch.where(self.fresh, value[:, :, self.source], self.value)
        return self.key, self.value


def size(number: Tensor) -> Any:
    """A number as a size: while a graph is traced it must stay the tensor that it is."""
    return number.long() if torch._C._get_tracing_state() is not None else number.item()


FUNCTIONS: dict[str, Callable[..., Tensors]] = {
    function.__name__: function
    for function in (
        image_features, image_projection, text_states, text_features, itm_scores, itc_scores, nlvr_scores,
        class_scores, question_states, begin, step,
    )
}  # fmt: skip
"""The parts by name."""
