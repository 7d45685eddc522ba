"""The weight table against the PyTorch modules, and what a checkpoint that does not fit is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from blip_core import BlipConfig
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.matching import match
from blip_core.parameters.models import parameters
from tests.helpers.lazy_frameworks import blip_pt, torch
from tests.helpers.random_models import CONFIGS_OF, HEADS, head_config

CONFIG = CONFIGS_OF["wide"]


def build(head, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(blip_pt, head)(head_config(head, config))


@pytest.mark.parametrize("name", CONFIGS_OF)
@pytest.mark.parametrize("head", HEADS)
def test_the_modules_have_exactly_the_parameters_of_the_table(head, name):
    model = build(head, CONFIGS_OF[name])
    found = {name: tuple(tensor.shape) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    assert found == {p.name: p.shape for p in model.table()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained - {"temp"} == {p.name for p in parameters(head, head_config(head, CONFIGS_OF[name]))}


def test_base_size_has_the_known_number_of_parameters():
    # what num_parameters() of transformers 4.57.6 gives
    known = {
        "BlipForConditionalGeneration": 223_971_644,
        "BlipForImageTextRetrieval": 223_744_258,
        "BlipForQuestionAnswering": 361_230_140,
        "BlipModel": 224_726_017,
    }
    assert {head: sum(int(np.prod(p.shape)) for p in parameters(head, BlipConfig())) for head in known} == known


def test_initial_values_follow_the_seed_and_the_configuration():
    torch.manual_seed(3)
    first = build("BlipForConditionalGeneration", CONFIG).state_dict()
    torch.manual_seed(3)
    second = build("BlipForConditionalGeneration", CONFIG).state_dict()
    third = build("BlipForConditionalGeneration", CONFIG).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    assert not torch.equal(first[words], third[words])
    big = BlipConfig.base()
    noise = np.random.default_rng(0)
    for parameter in parameters("BlipForConditionalGeneration", big)[:12]:
        value = initial_value(parameter, big, noise)
        if parameter.name.endswith("bias"):
            assert not value.any()
        elif "norm" in parameter.name.lower():
            assert (value == 1).all()
        else:
            assert 0.015 < value.std() < 0.025


def shapes(head="BlipForConditionalGeneration", config=CONFIG):
    return {p.name: p.shape for p in parameters(head, head_config(head, config))}


def test_every_tensor_that_does_not_fit_is_named_at_once():
    found = shapes()
    del found["vision_model.encoder.layers.1.mlp.fc1.bias"]
    del found["text_decoder.bert.encoder.layer.0.attention.self.query.weight"]
    found["vision_model.encoder.layers.3.mlp.fc1.bias"] = (40,)
    found["vision_model.post_layernorm.weight"] = (25,)
    with pytest.raises(ValueError, match="does not fit a BlipForConditionalGeneration") as error:
        match("BlipForConditionalGeneration", CONFIG, found)
    said = str(error.value)
    missing, rest = said.split("; unexpected: ")
    assert "vision_model.encoder.layers.1.mlp.fc1.bias" in missing
    assert "text_decoder.bert.encoder.layer.0.attention.self.query.weight" in missing
    assert rest.startswith("vision_model.encoder.layers.3.mlp.fc1.bias")
    assert "misshapen: vision_model.post_layernorm.weight [25] instead of [24]" in rest


def test_a_tensor_of_no_blip_is_unexpected():
    with pytest.raises(ValueError, match=r"unexpected: text_decoder.bert.encoder.layer.0.attention.self.lora_A"):
        match(
            "BlipForConditionalGeneration",
            CONFIG,
            shapes() | {"text_decoder.bert.encoder.layer.0.attention.self.lora_A": (4, 32)},
        )


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(ValueError, match="must be of another model"):
        match("BlipForConditionalGeneration", CONFIG, {"transformer.h.0.attn.c_attn.weight": (768, 2304)})


def test_the_same_encoder_twice_is_refused():
    both = shapes() | {"visual_encoder.cls_token": (1, 1, 24)}
    with pytest.raises(ValueError, match="duplicate"):
        match("BlipForConditionalGeneration", CONFIG, both)


def test_tied_tensors_and_buffers_may_be_there_or_not():
    tied = {
        "text_decoder.cls.predictions.decoder.weight": (90, 32),
        "text_decoder.cls.predictions.decoder.bias": (90,),
        "text_decoder.bert.embeddings.position_ids": (1, 40),
    }
    found = match("BlipForConditionalGeneration", CONFIG, shapes() | tied)
    assert not found.new_parts
    assert not set(found.sources.values()) & {"text_decoder.bert.embeddings.position_ids"}


def test_a_head_takes_its_parts_from_a_checkpoint_of_another():
    found = match("BlipForConditionalGeneration", CONFIG, shapes("BlipForImageTextRetrieval"))
    assert found.new_parts
    assert "vision_model.post_layernorm.weight" in found.sources.values()
