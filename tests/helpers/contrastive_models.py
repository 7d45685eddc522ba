"""Random models of the contrastive heads and batches of pairs for them."""

from __future__ import annotations

import tempfile

import numpy as np

from blip_core import BlipConfig
from blip_core.training.schedules import negative_noise
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.random_models import CONFIGS_OF

CONTRASTIVE = ("BlipForImageTextRetrieval", "BlipForPreTraining")


def tiny(framework, head, **settings):
    """A random model of odd sizes, the same in both frameworks."""
    import torch

    import blip_pt

    values = CONFIGS_OF["wide"].to_dict() | settings
    torch.manual_seed(7)
    model = getattr(blip_pt, head)(BlipConfig.from_dict(values))
    if head == "BlipForImageTextRetrieval":
        model.start_momentum()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape) * (parameter.ndim > 0))
    if framework is FRAMEWORKS["pt"]:
        return model
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return framework.of(head).from_pretrained(folder)


def pairs(head, batch=3, seed=0):
    """A batch of pairs, two of which have the same picture, and the noise of its negatives."""
    vision, noise = CONFIGS_OF["wide"].vision_config, np.random.default_rng(seed)
    pixels = noise.normal(size=(batch, vision.num_channels, vision.image_size, vision.image_size)).astype(np.float32)
    mask = (np.arange(7) < noise.integers(3, 8, batch)[:, None]).astype(np.int64)
    ids = np.where(mask, noise.integers(6, 80, (batch, 7)), 0)
    values = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    values["noise"] = negative_noise(seed, 0, batch)
    return values | ({"image_ids": np.arange(batch) // 2} if head == "BlipForImageTextRetrieval" else {})
