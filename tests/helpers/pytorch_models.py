"""Random PyTorch models of every head, and their inputs as tensors."""

from __future__ import annotations

import warnings

import torch

import blip_pt
from tests.helpers.random_models import CONFIGS_OF, head_config, inputs, randomized


def make(head: str, name: str = "wide"):
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return randomized(getattr(blip_pt, head)(head_config(head, CONFIGS_OF[name])))


def tensors(head: str, name: str = "wide") -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in inputs(head, CONFIGS_OF[name]).items()}
