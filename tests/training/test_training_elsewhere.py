"""The models in what people train with already: a plain loop, accelerate, and LoRA by peft."""

from __future__ import annotations

import accelerate
import peft
import pytest
import torch

from blip_core import BlipConfig, BlipProcessor
from blip_core.datasets import Batches, open_dataset
from blip_pt import BlipForConditionalGeneration
from tests.helpers.training_runs import make_world

TARGETS = ["query", "value", "qkv"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def captions(world):
    """A captioner of random weights, and the inputs of a step."""
    torch.manual_seed(0)
    processor = BlipProcessor.from_pretrained(world / "new")
    processor.image_processor.size = {"height": 32, "width": 32}
    dataset = open_dataset(world / "pairs.json", "caption")
    batches = Batches(dataset, processor, "caption", 8, training=True, workers=0)
    (batch,) = batches.epoch(0)
    model = BlipForConditionalGeneration(BlipConfig.from_pretrained(world / "new"))
    return model, {name: torch.from_numpy(value) for name, value in batch.inputs.items()}


def ten_steps(model, inputs, optimizer, backward=torch.Tensor.backward):
    """The losses of ten steps."""
    found = []
    for _ in range(10):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_a_plain_loop(world):
    model, inputs = captions(world)
    found = ten_steps(model, inputs, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert found[-1] < 0.9 * found[0]


def test_accelerate(world):
    accelerator = accelerate.Accelerator(cpu=True)
    model, inputs = captions(world)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    found = ten_steps(model, inputs, optimizer, accelerator.backward)
    assert found[-1] < 0.9 * found[0]
    accelerator.unwrap_model(model).save_pretrained(world / "accelerated")
    again = BlipForConditionalGeneration.from_pretrained(world / "accelerated")
    assert torch.equal(again(**inputs).logits, accelerator.unwrap_model(model).eval()(**inputs).logits)


def test_lora_by_peft(world):
    model, inputs = captions(world)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    for target in TARGETS:
        assert any(f".{target}.lora_A" in name for name in trained), target
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=5e-2)
    found = ten_steps(model, inputs, optimizer)
    assert found[-1] < found[0] - 0.01
    model.eval()
    expected = model(**inputs).logits
    model.save_pretrained(world / "adapter")
    base = BlipForConditionalGeneration(BlipConfig.from_pretrained(world / "new"))
    base.load_state_dict(before)
    loaded = peft.PeftModel.from_pretrained(base, world / "adapter").eval()
    assert torch.allclose(loaded(**inputs).logits, expected, atol=1e-5)
    merged = loaded.merge_and_unload()
    assert torch.allclose(merged(**inputs).logits, expected, atol=1e-4)
    merged.save_pretrained(world / "merged")
    again = BlipForConditionalGeneration.from_pretrained(world / "merged")
    assert torch.allclose(again(**inputs).logits, expected, atol=1e-4)
