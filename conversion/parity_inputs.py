"""The inputs of a parity check: the same pictures and texts, as each kind of model takes them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_core.config import BlipConfig, BlipTextConfig
from blip_core.parameters.heads import Head
from blip_core.processing.processor import BlipProcessor
from blip_core.training.schedules import negative_noise
from conversion.parity_models import Arrays, ParityModel

TEXTS = ("a picture of a dog on the beach", "two cats")


def inputs_for(
    models: tuple[ParityModel, ParityModel],
    folder: Path,
    images: Sequence[Any] | None,
    texts: Sequence[str] | None,
) -> list[Arrays]:
    """Return the same pictures and texts for both models, each in the tensors of its engine."""
    head, config = models[0].head, models[0].model.config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about another vocabulary than the model's, for which see `has_tokenizer`
        processor = BlipProcessor.from_pretrained(folder)
    text = getattr(config, "text_config", config)
    vision = getattr(config, "vision_config", config)
    if hasattr(vision, "image_size"):
        processor.image_processor.size = {"height": vision.image_size, "width": vision.image_size}
    pictures = list(images) if images is not None else drawings()
    if head.pairs and len(pictures) == 1:
        pictures += drawings()[:1]
    given = list(texts or TEXTS)
    given = [given[index % len(given)] for index in range(len(pictures))]
    has_tokenizer = getattr(text, "vocab_size", None) == len(processor.tokenizer)
    sides = []
    for model in models:
        found = model.processed(processor, pictures, given if has_tokenizer else None)
        words = {name: found[name] for name in ("input_ids", "attention_mask")} if has_tokenizer else None
        pixels = found["pixel_values"][:, : getattr(vision, "num_channels", 3)]
        sides.append(_inputs(head, config, pixels if has_tokenizer or images is None else pixels[:2], words))
    return sides


def _inputs(head: Head, config: Any, pixel_values: np.ndarray, texts: Arrays | None) -> Arrays:
    """Return what a model's call takes; random ids if its vocabulary has no tokenizer."""
    inputs: Arrays = {}
    if not isinstance(config, BlipTextConfig):
        inputs["pixel_values"] = pixel_values
    text = config.text_config if isinstance(config, BlipConfig) else config
    if not isinstance(text, BlipTextConfig):
        return inputs
    inputs |= _stand_in(text) if texts is None else texts
    count = len(inputs["input_ids"])
    if head.generates:
        inputs["labels"] = np.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
    if head.pictures == 2:  # each text is of a picture and the next one
        inputs["pixel_values"] = np.stack([pixel_values, np.roll(pixel_values, -1, axis=0)], axis=1)
        inputs["labels"] = np.arange(count) % 2
    if head.classes:
        inputs["labels"] = np.arange(count) % config.num_labels
    return {**inputs, **_draws(count)} if head.needs_state else inputs


def training_inputs(model: ParityModel, inputs: Arrays) -> Arrays:
    """Return what the call that gives a loss takes: a matcher with its training state learns from pairs."""
    if not (model.has_state and model.head.queues and not model.head.needs_state):
        return inputs
    count = len(inputs["input_ids"])
    return {**inputs, **_draws(count), "image_ids": np.arange(count)}


def _draws(count: int) -> Arrays:
    """Return the noise that chooses negatives, and the weight of the momentum encoders in the targets."""
    return {"noise": negative_noise(0, 0, count), "alpha": np.array(0.4, np.float32)}


def _stand_in(text: BlipTextConfig) -> Arrays:
    noise = np.random.default_rng(11)
    length = min(9, text.max_position_embeddings - 11)
    ids = noise.integers(1, text.vocab_size - 2, (2, length))
    mask = (np.arange(length) < np.array([[length], [length - 3]])).astype(np.int64)
    return {"input_ids": np.where(mask == 1, ids, text.pad_token_id), "attention_mask": mask}


def drawings() -> list[Image.Image]:
    """Return two pictures that are not square and have edges, gradients and noise."""
    noise = np.random.default_rng(1)
    pictures = []
    for height, width in ((150, 220), (240, 170)):
        y, x = np.mgrid[:height, :width]
        disc = ((y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2)[..., None] * [200, 40, 60]
        ramp = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1)
        pixels = np.clip(0.5 * ramp + disc + noise.normal(0, 12, (height, width, 3)), 0, 255)
        pictures.append(Image.fromarray(pixels.astype(np.uint8)))
    return pictures
