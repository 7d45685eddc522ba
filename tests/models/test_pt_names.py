"""PyTorch's models have the names of published files, so that what others wrote for those names fits without a map."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import blip_pt
from blip_core.parameters.models import training_state
from conversion import convert, inspect_checkpoint
from tests.helpers.checkpoint_files import ORIGINAL, TRANSFORMERS
from tests.helpers.pytorch_models import make, tensors
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference

DECODERS = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForPreTraining")
HEAD = "text_decoder.cls.predictions"
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"
RETRIEVAL = "BlipForImageTextRetrieval"
QUERY = "text_encoder.encoder.layer.0.attention.self.query"


def other_weights(model):
    """A copy with other values."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.25)
    return model


def same(model, other):
    weights, others = model.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("head", ["BlipForConditionalGeneration", "BlipModel"])
def test_state_dicts_are_those_of_transformers(head):
    published = torch.load(TRANSFORMERS / head / "pytorch_model.bin", weights_only=True)
    config = json.loads((TRANSFORMERS / head / "config.json").read_text(encoding="utf-8"))
    model = getattr(blip_pt, head)(blip_pt.BlipConfig.from_dict(config))
    assert set(model.state_dict()) == {name for name in published if not name.endswith("position_ids")}
    model.load_state_dict(published)
    assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("head", "name"), [("BlipForNLVR", "nlvr"), (RETRIEVAL, "retrieval"), ("BlipForPreTraining", "pretrain")]
)
def test_what_hugging_face_lacks_has_the_originals_names(head, name):
    original = torch.load(ORIGINAL / f"{name}.pth", weights_only=True)["model"]
    options = {"momentum": True} if head == RETRIEVAL else {}
    names = set(getattr(blip_pt, head)(CONFIGS_OF["wide"], **options).state_dict())

    def text(names):
        return {n for n in names if not n.startswith("vis") and not n.endswith("position_ids") and ".layer." not in n}

    assert text(names) == text(original)


@pytest.mark.parametrize("head", HEADS)
def test_saved_files_are_state_dicts(head, tmp_path):
    model = make(head)
    model.save_pretrained(tmp_path)
    held, other = load_file(tmp_path / "model.safetensors"), other_weights(model)
    assert held.keys() <= model.state_dict().keys()
    other.load_state_dict(held)
    assert same(model, other)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("head", DECODERS)
def test_either_of_two_tied_tensors_is_enough(head, assign):
    model = make(head)
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for left_out in (f"{HEAD}.decoder.weight", f"{HEAD}.decoder.bias", WORDS, f"{HEAD}.bias"):
        other = other_weights(model)
        other.load_state_dict({name: tensor for name, tensor in whole.items() if name != left_out}, assign=assign)
        assert same(model, other)
        assert other.text_decoder.cls.predictions.decoder.weight is other.get_parameter(WORDS)
        assert other.text_decoder.cls.predictions.decoder.bias is other.get_parameter(f"{HEAD}.bias")
    buffers = {f"{prefix}embeddings.position_ids": torch.arange(40)[None] for prefix in ("text_decoder.bert.",)}
    other.load_state_dict(whole | buffers, assign=assign)
    with pytest.raises(RuntimeError, match=r"Missing key.*post_layernorm.bias"):
        other.load_state_dict({name: tensor for name, tensor in whole.items() if "post_layernorm.b" not in name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*lora_A"):
        other.load_state_dict(whole | {"lora_A": torch.zeros(1)})


def test_tied_weights_stay_tied(tmp_path):
    model = make("BlipForConditionalGeneration")
    model.save_pretrained(tmp_path)
    loaded = blip_pt.BlipForConditionalGeneration.from_pretrained(tmp_path)
    for one in (model, loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded)), loaded.double()):
        head = one.text_decoder.cls.predictions
        assert head.decoder.weight is one.get_parameter(WORDS)
        assert head.decoder.bias is head.bias
        assert len([name for name, _ in one.named_parameters() if "predictions.decoder" in name]) == 0


@pytest.mark.parametrize("head", [*DECODERS[:2], RETRIEVAL, "BlipForNLVR"])
def test_saved_state_dicts_are_checkpoints(head, tmp_path):
    model = make(head)
    torch.save(model.state_dict(), tmp_path / "best.pth")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    assert same(model, type(model).from_pretrained(tmp_path / "best.pth"))
    report = inspect_checkpoint(tmp_path / "best.pth")
    assert head in str(report)
    convert(tmp_path / "best.pth", tmp_path / "converted")
    assert same(model, type(model).from_pretrained(tmp_path / "converted"))


def test_the_training_state_is_part_of_state_dicts():
    torch.manual_seed(0)
    model = blip_pt.BlipForImageTextRetrieval(CONFIGS_OF["wide"], momentum=True)
    other = blip_pt.BlipForImageTextRetrieval(CONFIGS_OF["wide"], momentum=True)
    state = {row.name for row in training_state(RETRIEVAL, model.config)}
    assert {
        "temp",
        "image_queue",
        "text_queue",
        "idx_queue",
        "ptr_queue",
        f"text_encoder_m.{QUERY[13:]}.weight",
    } < state
    assert state < model.state_dict().keys()
    other.load_state_dict(model.state_dict())
    assert same(model, other)


def test_hooks_freezing_and_groups_by_the_names_of_public_code():
    model, values, seen = make(RETRIEVAL), tensors(RETRIEVAL), []
    paths = (
        "text_encoder.embeddings", "text_encoder.encoder", "text_encoder.encoder.layer.1.crossattention.self",
        "text_encoder.encoder.layer.0.attention.self", "text_encoder.encoder.layer.0.intermediate",
        "text_encoder.encoder.layer.1.output", "vision_model.embeddings", "vision_model.encoder",
        "vision_model.encoder.layers.2.self_attn.qkv",
    )  # fmt: skip
    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: seen.append(path))
    model(**values)
    assert sorted(seen) == sorted(paths)
    names = [name for name, _ in model.named_parameters()]
    assert len([name for name in names if "LayerNorm" in name]) == 2 * (1 + 2 * 3)
    for name, weight in model.named_parameters():
        weight.requires_grad_("crossattention" in name)
    model(**values).itm_score.sum().backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {
        name for name in names if "crossattention" in name
    }


@pytest.mark.parametrize("targets", [["query", "value"], ["self.query"], ["dense"], ["qkv", "projection"]])
def test_public_adapters_take_effect(tmp_path, targets):
    peft = pytest.importorskip("peft")
    model, values = make(RETRIEVAL), tensors(RETRIEVAL)
    before = model(**values).itm_score
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=targets))
    adapted.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    layer = {"qkv": "vision_model.encoder.layers.0.self_attn.qkv", "dense": "text_encoder.encoder.layer.0.output.dense"}
    assert f"base_model.model.{layer.get(targets[0], QUERY)}.lora_A.weight" in held
    noise = torch.Generator().manual_seed(0)
    held = {name: 0.2 * torch.randn(tensor.shape, generator=noise) for name, tensor in held.items()}
    save_file(held, tmp_path / "adapter_model.safetensors")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path)).eval()
    after = loaded(**values).itm_score
    assert difference(before.detach(), after.detach()) > 1e-2
    merged = loaded.merge_and_unload()
    assert merged.state_dict().keys() == model.state_dict().keys()
    assert difference(after.detach(), merged(**values).itm_score.detach()) < 1e-5


def test_what_trainers_ask_of_a_class():
    first = {"BlipVisionModel": "pixel_values", "BlipForConditionalGeneration": "pixel_values"}
    for head in (
        "BlipVisionModel",
        "BlipTextModel",
        "BlipForConditionalGeneration",
        "BlipForQuestionAnswering",
        RETRIEVAL,
    ):
        cls = getattr(blip_pt, head)
        assert cls.main_input_name == first.get(head, "input_ids")
        assert cls.base_model_prefix == "blip"


@pytest.mark.parametrize("head", [*DECODERS, "BlipTextLMHeadModel"])
def test_state_dicts_can_be_written_by_trainers(head, tmp_path):
    """Trainers write `state_dict()` as safetensors, which refuses tensors that share memory."""
    model, base = make(head), "" if head == "BlipTextLMHeadModel" else "text_decoder."
    words, second = f"{base}bert.embeddings.word_embeddings.weight", f"{base}cls.predictions.decoder.weight"
    held = model.state_dict()
    save_file(held, tmp_path / "model.safetensors")
    assert torch.equal(held[second], held[words])
    assert all(held[name].data_ptr() == weight.data_ptr() for name, weight in model.named_parameters())
    kept = torch.nn.ModuleDict({"inner": model}).state_dict(keep_vars=True)
    assert kept[f"inner.{second}"] is kept[f"inner.{words}"]
    inner = torch.nn.ModuleDict({"inner": model}).state_dict()
    save_file(inner, tmp_path / "inner.safetensors")
    other = other_weights(model)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert same(model, other)
