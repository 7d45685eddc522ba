"""`optimize()` of the PyTorch models: the same results, nothing that can go stale, and the way back."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from blip_pt import optimizing
from blip_pt.nn import Linear
from blip_pt.optimizing import PackedLinear
from blip_pt.products import HAS_ONEDNN
from tests.helpers.pytorch_models import make, tensors
from tests.helpers.random_models import HEADS, difference

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="nothing is packed on this processor")
CAPTION = "BlipForConditionalGeneration"
UNDO = re.escape("call model.optimize(False) first")


@pytest.fixture(autouse=True)
def small_weights_are_packed(monkeypatch):
    monkeypatch.setattr(optimizing, "SMALL", 1)
    monkeypatch.setattr(optimizing, "best_way", lambda rows, weight, packing: "packed")


def packed(model):
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


@pytest.mark.parametrize("head", HEADS)
def test_results_are_the_same_and_it_can_be_undone(head):
    model, values = make(head).eval(), tensors(head)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    count, trainable = model.num_parameters(), [name for name, w in model.named_parameters() if w.requires_grad]
    with torch.no_grad():
        expected = model(**values)
        found = model.optimize()(**values)
    layers = packed(model)
    assert len(layers) > 8
    assert model.optimize() is model
    assert packed(model) == layers
    for name, value in expected.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert difference(value, found[name]) < 1e-5, name
    assert model.num_parameters() == count
    assert model(**values).to_tuple()[0].requires_grad is False
    saved = model.state_dict()
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], before[name]) for name in before)
    model.optimize(False)
    assert not packed(model)
    assert [name for name, w in model.named_parameters() if w.requires_grad] == trainable
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_tokens_are_equal_and_what_is_saved_is_what_was_loaded(tmp_path):
    model, values = make(CAPTION).eval(), tensors(CAPTION)
    pixels = values["pixel_values"]
    options = [{"max_new_tokens": 8}, {"max_new_tokens": 8, "num_beams": 3}]
    expected = [model.generate(pixels, **option) for option in options]
    model.optimize()
    assert all(torch.equal(model.generate(pixels, **o), e) for o, e in zip(options, expected, strict=True))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    model.optimize(False)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_whoever_would_change_weights_is_told():
    model = make(CAPTION).eval().optimize()
    (layer, *_) = packed(model)
    with pytest.raises(AttributeError, match=UNDO):
        layer.weight.data.mul_(2)
    for value in (torch.nn.Parameter(layer.dense()), layer.dense(), None):
        with pytest.raises(ValueError, match=UNDO):
            layer.weight = value
    with pytest.raises(ValueError, match=UNDO):
        model.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=UNDO):
        model.to(torch.bfloat16)
    with pytest.raises(ValueError, match=UNDO):
        torch.jit.trace(layer, torch.zeros(1, layer.shape[1]), check_trace=False)
    assert model.to("cpu").float() is model


def test_a_bias_is_not_copied():
    model = make(CAPTION).eval().optimize()
    (layer, *_) = packed(model)
    x = torch.randn(3, layer.shape[1])
    before = layer(x)
    layer.bias.data.add_(1)
    assert difference(layer(x), before + 1) < 1e-5


def test_where_a_gradient_passes_through():
    """Heat maps take gradients of activations: the packed product has none."""
    torch.manual_seed(0)
    layer = Linear(12, 7)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 12, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    holder = torch.nn.Sequential(layer)
    optimizing.pack_layers(holder)
    (found,) = torch.autograd.grad(holder(x).sum(), x)
    assert difference(expected, found) < 1e-6


def test_layers_that_are_shared_hooked_or_adapted_stay():
    model = make(CAPTION).eval()
    hooked = model.vision_model.encoder.layers[0].mlp.fc1
    hooked.register_forward_hook(lambda *given: None)
    model.optimize()
    assert model.vision_model.encoder.layers[0].mlp.fc1 is hooked
    assert type(model.get_output_embeddings()) is Linear  # tied to the word embeddings
    assert isinstance(model.vision_model.encoder.layers[0].mlp.fc2, PackedLinear)


def test_copies_and_int8():
    model, values = make(CAPTION).eval(), tensors(CAPTION)
    pixels = values["pixel_values"]
    expected = model.optimize().generate(pixels, max_new_tokens=5)
    assert torch.equal(copy.deepcopy(model).generate(pixels, max_new_tokens=5), expected)
    assert model.quantize().quantized
    assert not packed(model)
