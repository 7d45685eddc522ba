"""The stages of a BLIP, in the order in which a picture and a text go through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_core.config import BlipConfig, BlipTextConfig
from conversion.parity_models import Arrays, ParityModel

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "3 beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_p": 0.9, "seed": 7},
}


def forward_stages(model: ParityModel, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values of everything on the way: embeddings, each block and layer, logits, heads, losses."""
    pixels = _given(inputs, "pixel_values")
    texts = _given(inputs, "input_ids", "attention_mask")
    embeds: np.ndarray | None = None
    if pixels:
        yield "pixel values", pixels["pixel_values"]
        part = "vision_model" if hasattr(model.model, "vision_model") else ""
        vision = model.call(part, **pixels, output_hidden_states=True)
        embeds = vision["last_hidden_state"].astype(np.float32)
        yield from _layers("patch embedding", "vision block", vision["hidden_states"])
        yield "image embeddings", vision["last_hidden_state"]
        yield "pooled image", vision["pooler_output"]
    for part in ("text_model", "text_encoder"):
        if not hasattr(model.model, part):
            continue
        yield from _text_stages(model, part, texts, None, "text encoder")
        if embeds is not None and getattr(model.model, part).config.is_decoder:
            yield from _text_stages(model, part, texts, embeds, "text encoder with picture")
    if isinstance(model.model.config, BlipTextConfig):
        part = "bert" if hasattr(model.model, "bert") else ""
        yield from _text_stages(model, part, texts, None, "text model")
    if hasattr(model.model, "text_decoder"):
        states = None if hasattr(model.model, "text_encoder") else embeds  # a question answerer's reads question states
        yield from _text_stages(model, "text_decoder.bert", texts, states, "text decoder")
    for options in ({}, *([{"use_itm_head": False}] * hasattr(model.model, "itm_head"))):
        called = model.call("", **inputs, **options)
        for name, value in sorted(called.items(), key=lambda item: item[0].startswith("loss")):  # after the outputs
            if isinstance(value, np.ndarray) and not (name == "last_hidden_state" and pixels):
                yield f"{name}{' (cosines)' if options else ''}", value


def _given(inputs: Arrays, *names: str) -> Arrays:
    return {name: inputs[name] for name in names if name in inputs}


def _text_stages(
    model: ParityModel, part: str, texts: Arrays, states: np.ndarray | None, label: str
) -> Iterator[tuple[str, np.ndarray]]:
    given = {} if states is None else {"encoder_hidden_states": states}
    output = model.call(part, **texts, **given, output_hidden_states=True)
    yield from _layers(f"{label} embedding", f"{label} layer", output["hidden_states"])


def _layers(first: str, other: str, states: list[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield first, states[0]
    yield from ((f"{other} {index}", state) for index, state in enumerate(states[1:]))


def objective(head: str) -> str:
    """The output whose gradient is compared."""
    return {
        "BlipVisionModel": "last_hidden_state",
        "BlipTextModel": "last_hidden_state",
        "BlipModel": "logits_per_image",
        "BlipForImageTextRetrieval": "itm_score",
    }.get(head, "loss")


def generation_stages(model: ParityModel, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Generated tokens by the kind of search."""
    if not hasattr(model.model, "generate"):
        return
    given = {name: value for name, value in inputs.items() if name != "labels"}
    for name, options in SEARCHES.items():
        yield f"tokens, {name}", model.generate(given, max_new_tokens=10, **options)


def make_inputs(config: Any, pixel_values: np.ndarray | None, texts: Arrays | None) -> Arrays:
    """What a model of this configuration takes; ids stand in for texts where its vocabulary has no tokenizer."""
    inputs: Arrays = {}
    if not isinstance(config, BlipTextConfig) and pixel_values is not None:
        inputs["pixel_values"] = pixel_values
    text = config.text_config if isinstance(config, BlipConfig) else config
    if not isinstance(text, BlipTextConfig):
        return inputs
    if texts is None:
        noise = np.random.default_rng(11)
        length = min(9, text.max_position_embeddings - 11)
        ids = noise.integers(1, text.vocab_size - 2, (2, length))
        mask = (np.arange(length) < np.array([[length], [length - 3]])).astype(np.int64)
        texts = {"input_ids": np.where(mask == 1, ids, text.pad_token_id), "attention_mask": mask}
    return {**inputs, **texts}
