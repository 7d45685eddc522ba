"""The stages of a BLIP, in the order in which a picture and a text go through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_core.config import BlipTextConfig
from conversion.parity_inputs import training_inputs
from conversion.parity_models import Arrays, ParityModel

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "3 beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_p": 0.9, "seed": 7},
}


def forward_stages(model: ParityModel, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values of all stages: embeddings, each layer, logits, heads, losses."""
    pixels = _given(inputs, "pixel_values")
    texts = _given(inputs, "input_ids", "attention_mask")
    embeds: np.ndarray | None = None
    modules = model.head.modules
    if pixels:
        yield "pixel values", pixels["pixel_values"]
        part = "vision_model" if "vision_model" in modules else ""
        values = pixels["pixel_values"]
        single = {"pixel_values": values.reshape(-1, *values.shape[-3:])}  # NLVR's come in pairs
        vision = model.call(part, **single, output_hidden_states=True)
        embeds = vision["last_hidden_state"].astype(np.float32)
        embeds = embeds.reshape(len(values), -1, embeds.shape[-1])
        yield from _layers("patch embedding", "vision block", vision["hidden_states"])
        yield "image embeddings", vision["last_hidden_state"]
        yield "pooled image", vision["pooler_output"]
    for part in modules & {"text_model", "text_encoder"}:
        yield from _text_stages(model, part, texts, None, "text encoder")
        if embeds is not None and getattr(model.model, part).config.is_decoder:
            yield from _text_stages(model, part, texts, embeds, "text encoder with picture")
    if isinstance(model.model.config, BlipTextConfig):
        part = "bert" if "bert" in modules else ""
        yield from _text_stages(model, part, texts, None, "text model")
    if "text_decoder" in modules:
        states = None if model.head.answers else embeds
        yield from _text_stages(model, "text_decoder.bert", texts, states, "text decoder")
    if model.has_state:
        yield "momentum image embeddings", model.call("vision_model_m", **pixels)["last_hidden_state"]
        yield "momentum text states", model.call("text_encoder_m", **texts)["last_hidden_state"]
    calls: dict[str, dict[str, Any]] = {"": inputs}
    calls |= {f" ({label})": {**inputs, **options} for label, options in model.head.variants.items()}
    trained = training_inputs(model, inputs)
    calls |= {" (training)": trained} if trained is not inputs else {}
    for label, given in calls.items():
        called = model.call("", **given)
        for name, value in sorted(called.items(), key=lambda item: item[0].startswith("loss")):  # after the outputs
            if isinstance(value, np.ndarray) and not (name == "last_hidden_state" and pixels):
                yield f"{name}{label}", value


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


def objective(model: ParityModel) -> str:
    """Return the name of the output whose gradient is compared."""
    return "loss" if model.has_state else model.head.objective


def generation_stages(model: ParityModel, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yield generated tokens by kind of search."""
    if not model.head.generates:
        return
    given = {name: value for name, value in inputs.items() if name != "labels"}
    for name, options in SEARCHES.items():
        yield f"tokens, {name}", model.generate(given, max_new_tokens=10, **options)
