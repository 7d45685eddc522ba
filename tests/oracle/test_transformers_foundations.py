"""A ViT and a BERT of transformers, with random weights, begin a pre-training model with exactly their tensors."""

from __future__ import annotations

import importlib
import shutil

import numpy as np
import pytest

from blip_core.processing.vocabulary import VOCABULARY
from blip_core.training import Settings
from blip_core.training.start import find_start
from tests.helpers.frameworks import FRAMEWORKS, require
from tests.helpers.lazy_frameworks import torch

pytestmark = pytest.mark.oracle
SETTINGS = Settings(image_size=64, queue_size=8)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {"hidden_size": 24, "intermediate_size": 40, "image_size": 64, "patch_size": 16, **SIZES}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 40, "vocab_size": 30522, **SIZES}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Their models, every weight random, and the folders of each."""
    import transformers

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("theirs")
    models = {
        "vit": transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
        "deit": transformers.DeiTModel(transformers.DeiTConfig(**VIT)),
        "bert": transformers.BertForPreTraining(transformers.BertConfig(**TEXT)),
    }
    for name, model in models.items():
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_()
        model.eval().save_pretrained(root / name)
    shutil.copy(VOCABULARY, root / "bert" / "vocab.txt")
    return models, root


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("vision", ["vit", "deit"])
def test_the_tensors_are_theirs(theirs, framework, vision):
    """By what both compute: names are held apart by the default tests."""
    require(framework)
    models, root = theirs
    start = find_start("pretrain", None, None, SETTINGS, vision=root / vision, text=root / "bert")
    model = importlib.import_module(f"blip_{framework}.trainer").make_model(start, SETTINGS)
    to_numpy = importlib.import_module(f"blip_{framework}.base").to_numpy
    own = {
        row.name: row.from_tensorflow(to_numpy(model.get_parameter(row.name)))
        if framework == "tf"
        else to_numpy(model.get_tensor(row.name))
        for row in model.table()
    }
    bert = {name: value.numpy() for name, value in models["bert"].state_dict().items()}
    for name, value in bert.items():
        place = name.replace("bert.", "text_encoder.") if name.startswith("bert.") else f"text_decoder.{name}"
        if place in own:
            assert np.array_equal(own[place][: len(value)], value), name
    taken = {name for name in bert if name.replace("bert.", "text_encoder.") in own or f"text_decoder.{name}" in own}
    assert {name.split(".")[-2] for name in bert.keys() - taken} <= {
        "token_type_embeddings", "dense", "seq_relationship", "decoder", "embeddings",
    }  # fmt: skip
    vit = {name.removeprefix("vit."): value.numpy() for name, value in models[vision].state_dict().items()}
    used = np.concatenate([value.ravel() for name, value in own.items() if name.startswith("vision_model.")])
    given = [
        np.delete(value, 1, axis=1) if vision == "deit" and name == "embeddings.position_embeddings" else value
        for name, value in vit.items()
        if not name.startswith(("classifier", "pooler", "embeddings.distillation_token", "embeddings.mask_token"))
    ]
    assert np.array_equal(np.sort(used), np.sort(np.concatenate([value.ravel() for value in given])))


def test_a_vit_says_of_a_picture_what_theirs_says(theirs):
    require("pt")
    models, root = theirs
    start = find_start("pretrain", None, None, SETTINGS, vision=root / "vit", text=root / "bert")
    model = importlib.import_module("blip_pt.trainer").make_model(start, SETTINGS).eval()
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32))
    with torch.no_grad():
        own = model.vision_model(pixels).last_hidden_state
        expected = models["vit"].vit(pixels).last_hidden_state
    assert torch.allclose(own, expected, atol=1e-4, rtol=1e-4)
