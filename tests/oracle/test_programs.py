"""Small programs in the manner of public ones give the same with `transformers` and with `blip_pt` as the import."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import blip_pt
from blip_core.processing.vocabulary import VOCABULARY
from tests.helpers.transformers_pairs import randomize
from tests.oracle.programs import (
    caption_programs,
    matching_programs,
    processing_programs,
    question_programs,
    training_programs,
)

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
MODULES = (caption_programs, question_programs, matching_programs, processing_programs, training_programs)
PROGRAMS = {
    f"{module.__name__.rpartition('.')[2].partition('_')[0]}.{name}": program
    for module in MODULES
    for name, program in inspect.getmembers(module, inspect.isfunction)
    if not name.startswith("_") and program.__module__ == module.__name__
}
HEADS = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "itm": "BlipForImageTextRetrieval",
    "plain": "BlipModel",
}
# Folders of Trainer hold weights alone, of which as many heads are assumed as base models have.
CONFIG = {
    "text_config": {
        "vocab_size": 30524, "hidden_size": 24, "encoder_hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 12, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "vision_config": {
        "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 12, "image_size": 32,
        "patch_size": 8, "num_channels": 3,
    },
    "projection_dim": 10, "image_text_hidden_size": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """Small checkpoints of each head with their processors, as transformers saves them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    processor = transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": 32, "width": 32}),
        transformers.BertTokenizerFast(vocab_file=str(VOCABULARY), model_max_length=512),
    )
    for name, head in HEADS.items():
        model = getattr(transformers, head)(transformers.BlipConfig(**copy.deepcopy(CONFIG)))
        randomize(model)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def check_same(found: Any, expected: Any, where: str) -> None:
    """Tensors and numbers within 1e-4 of the largest, texts and whole numbers alike."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            check_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), (where, found, expected)
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_same(one, other, f"{where}[{index}]")
    elif torch.is_tensor(expected) or isinstance(expected, np.ndarray | float):
        one, other = (torch.as_tensor(value).detach().double() for value in (found, expected))
        assert one.shape == other.shape, (where, one, other)
        largest = float(other.abs().max()) if other.numel() else 0.0
        assert float((one - other).abs().max()) <= 1e-4 * largest, (where, found, expected)
    else:
        assert found == expected, where


def test_there_are_programs_of_every_kind():
    assert len(PROGRAMS) >= 36


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_the_same(name: str, at: Any):
    program: Callable[..., Any] = PROGRAMS[name]
    with warnings.catch_warnings():
        expected = program(transformers, at)
        found = program(blip_pt, at)
    check_same(found, expected, name)
