"""What the tests of the TensorFlow backend share: the same odd little models in both frameworks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from blip_core import BlipConfig
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference, head_config, inputs, numpy

__all__ = ["CONFIGS_OF", "HEADS", "difference", "head_config", "inputs", "models", "numpy", "to_pt", "to_tf"]


def models(head: str, config: BlipConfig, folder: Path, scale: float = 0.1) -> tuple[Any, Any]:
    """A model of random weights in PyTorch and, loaded from the folder that it saves, in TensorFlow.

    `scale` is that of the noise on all weights, so that biases and LayerNorm scales are not trivial.
    """
    import torch

    import blip_pt
    import blip_tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(1)
        pt = getattr(blip_pt, head)(head_config(head, config))
        noise = np.random.default_rng(2)
        with torch.no_grad():
            for parameter in pt.parameters():
                value = noise.normal(scale=scale, size=tuple(parameter.shape))
                parameter.add_(torch.from_numpy(value.astype(np.float32)))
        pt.save_pretrained(folder)
        return pt.eval(), getattr(blip_tf, "TF" + head).from_pretrained(folder)


def to_pt(values: dict[str, Any]) -> dict[str, Any]:
    """The arrays among the values as PyTorch tensors."""
    import torch

    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}


def to_tf(values: dict[str, Any]) -> dict[str, Any]:
    """The arrays among the values as TensorFlow tensors."""
    import tensorflow as tf

    return {k: tf.constant(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
