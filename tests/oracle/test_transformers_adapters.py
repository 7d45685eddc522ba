"""LoRA adapters of transformers' BLIP are merged here as PEFT computes them there, and those made here work there."""

import pytest
import torch
import transformers

import blip_pt
from tests.helpers.transformers_pairs import CONFIGS, inputs, make_pair, relative

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
peft = pytest.importorskip("peft")
HEAD = "BlipForConditionalGeneration"


def adapted(model: torch.nn.Module, targets) -> torch.nn.Module:
    """A model with a random adapter around it."""
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    return model


@pytest.mark.parametrize(
    "targets",
    [["query", "value"], ["qkv", "projection"], ["decoder"], "all-linear", ["word_embeddings", "patch_embedding"]],
)
def test_adapters_go_both_ways(tmp_path, targets):
    given = inputs(CONFIGS["odd"])
    ours, theirs = make_pair(HEAD, CONFIGS["odd"], tmp_path / "base")
    model = adapted(theirs, targets)
    model.save_pretrained(tmp_path / "lora")
    expected = model(**given, return_dict=True).logits
    merged = blip_pt.BlipForConditionalGeneration.from_pretrained(tmp_path / "lora", base_model=tmp_path / "base")
    assert relative(merged(**given).logits, expected) < 1e-5
    merged.save_pretrained(tmp_path / "merged")
    load = getattr(transformers, HEAD).from_pretrained
    assert relative(load(tmp_path / "merged")(**given, return_dict=True).logits, expected) < 1e-5
    model = adapted(ours, targets)
    model.save_pretrained(tmp_path / "ours")
    there = peft.PeftModel.from_pretrained(load(tmp_path / "base").eval(), tmp_path / "ours").eval()
    assert relative(there(**given, return_dict=True).logits, model(**given).logits) < 1e-5
