"""Random models of the contrastive heads and batches of pairs for them."""

from __future__ import annotations

import tempfile

import numpy as np

from blip_core import BlipConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.parameters.initial_values import initial_values
from blip_core.parameters.models import parameters, training_state
from blip_core.training.schedules import negative_noise
from tests.helpers.frameworks import PyTorch
from tests.helpers.random_models import CONFIGS_OF

CONTRASTIVE = ("BlipForImageTextRetrieval", "BlipForPreTraining")


def tiny(framework, head, **settings):
    """A random model of odd sizes, the same in both frameworks, with its training state where it has one."""
    config = BlipConfig.from_dict(CONFIGS_OF["wide"].to_dict() | settings)
    rows = [*parameters(head, config), *training_state(head, config)]
    noise, values = np.random.default_rng(7), {}
    for row, value in initial_values(rows, config, seed=7):
        if value.ndim and "queue" not in row.name:
            value = value + 0.05 * noise.standard_normal(value.shape, np.float32)
        values[row.name] = value
    with tempfile.TemporaryDirectory() as folder:
        write_pretrained(folder, head, config, rows, lambda row: values[row.name])
        model = framework.of(head).from_pretrained(folder)
    return model.train() if framework is PyTorch else model


def pairs(head, batch=3, seed=0):
    """A batch of pairs, two of which have the same picture, and the noise of its negatives."""
    vision, noise = CONFIGS_OF["wide"].vision_config, np.random.default_rng(seed)
    pixels = noise.normal(size=(batch, vision.num_channels, vision.image_size, vision.image_size)).astype(np.float32)
    mask = (np.arange(7) < noise.integers(3, 8, batch)[:, None]).astype(np.int64)
    ids = np.where(mask, noise.integers(6, 80, (batch, 7)), 0)
    values = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    values["noise"] = negative_noise(seed, 0, batch)
    return values | ({"image_ids": np.arange(batch) // 2} if head == "BlipForImageTextRetrieval" else {})
