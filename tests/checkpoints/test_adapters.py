"""LoRA adapters: read upon their base, by both frameworks and the converter, with the numbers that PEFT gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from blip_core import BlipProcessor
from blip_core.checkpoints import open_checkpoint
from blip_core.cli import main
from conversion import convert, inspect_checkpoint
from tests.helpers.random_models import CONFIGS_OF, difference, inputs

CAPTIONER, ANSWERER, RETRIEVAL = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
TASKS = ("SEQ_2_SEQ_LM", "CAUSAL_LM", "QUESTION_ANS", "FEATURE_EXTRACTION", None)
LORAS = {
    "query": {"target_modules": ["query", "value"]},
    "self.query": {"target_modules": ["self.query"], "use_rslora": True},
    "dense": {"target_modules": ["dense"], "bias": "all"},
    "qkv": {"target_modules": ["qkv", "projection"], "lora_bias": True},
    "decoder": {"target_modules": ["query", "decoder"]},
    "all-linear": {
        "target_modules": "all-linear",
        "alpha_pattern": {"qkv": 7, r"layer\.\d+\.intermediate.dense": 3}, "rank_pattern": {"query": 3},
    },
    "embeddings": {"target_modules": ["patch_embedding", "word_embeddings"]},
    "saved": {"target_modules": ["query"], "modules_to_save": ["LayerNorm", "intermediate"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    from tests.helpers.pytorch_models import make

    root = tmp_path_factory.mktemp("bases")
    for head in (CAPTIONER, ANSWERER, RETRIEVAL):
        make(head).save_pretrained(root / head)
    return root


def answer(model, head: str) -> np.ndarray:
    """All numbers that a model of either framework answers."""
    given = inputs(head, CONFIGS_OF["wide"])
    if type(model).__name__.startswith("TF"):
        import tensorflow as tf

        values = model(**{name: tf.constant(value) for name, value in given.items()}).to_tuple()
    else:
        import torch

        with torch.no_grad():
            values = model(**{name: torch.from_numpy(value) for name, value in given.items()}).to_tuple()
    return np.concatenate([np.asarray(value, np.float64).ravel() for value in values if hasattr(value, "shape")])


def load(package: str, head: str, *arguments, **options):
    module = pytest.importorskip(package)
    return getattr(module, "TF" * (package == "blip_tf") + head).from_pretrained(*arguments, **options)


def adapt(bases: Path, head: str, folder: Path, **lora) -> np.ndarray:
    """Write an adapter with random numbers by PEFT; return what the model with it answers."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model = load("blip_pt", head, bases / head)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=5, **lora)).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=noise))
    adapted.save_pretrained(folder)
    edit(folder, base_model_name_or_path=str(bases / head))
    return answer(adapted, head)


def edit(folder: Path, **settings) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture(scope="module")
def queries(bases) -> tuple[Path, np.ndarray]:
    """An adapter of the question answerer, and what the model with it answers."""
    return bases / "lora", adapt(bases, ANSWERER, bases / "lora", target_modules=["query"])


@pytest.fixture
def adapter(queries, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(queries[0], tmp_path / "lora"))


@pytest.mark.filterwarnings("ignore")  # of PEFT, about the tied projection
@pytest.mark.parametrize(
    ("head", "name"),
    [*((CAPTIONER, name) for name in LORAS), (ANSWERER, "all-linear"), (ANSWERER, "dense"), (RETRIEVAL, "qkv")],
)
def test_an_adapter_is_merged_as_peft_merges_it(bases, tmp_path, head, name):
    base = answer(load("blip_pt", head, bases / head), head)
    expected = adapt(bases, head, tmp_path / "lora", **LORAS[name])
    assert difference(base, expected) > 1e-2
    assert difference(expected, answer(load("blip_pt", head, tmp_path / "lora"), head)) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.needs("tf")
@pytest.mark.parametrize("name", ["all-linear", "embeddings"])
def test_tensorflow_merges_the_same(bases, tmp_path, name):
    expected = adapt(bases, CAPTIONER, tmp_path / "lora", **LORAS[name])
    model = load("blip_tf", CAPTIONER, tmp_path / "lora")
    assert difference(expected, answer(model, CAPTIONER)) < 1e-5
    model.save_pretrained(tmp_path / "saved")
    assert difference(expected, answer(load("blip_pt", CAPTIONER, tmp_path / "saved"), CAPTIONER)) < 1e-5


def test_any_task_type_is_taken(queries, adapter):
    for task in TASKS:
        edit(adapter, task_type=task)
        assert difference(queries[1], answer(load("blip_pt", ANSWERER, adapter), ANSWERER)) < 1e-5
        assert inspect_checkpoint(adapter).adapter["task_type"] == task


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["all-linear", "embeddings"])
def test_convert_merges_an_adapter(bases, tmp_path, name):
    expected = adapt(bases, CAPTIONER, tmp_path / "lora", **LORAS[name])
    assert main(["convert", str(tmp_path / "lora"), str(tmp_path / "merged")]) == 0
    assert difference(expected, answer(load("blip_pt", CAPTIONER, tmp_path / "merged"), CAPTIONER)) < 1e-5
    with pytest.raises(ValueError, match="pth cannot hold a projection to the vocabulary with weights of its own"):
        convert(tmp_path / "lora", tmp_path / "merged.pth")
    convert(tmp_path / "lora", tmp_path / "keras", to="tf_model.h5")
    assert difference(expected, answer(load("blip_pt", CAPTIONER, tmp_path / "keras"), CAPTIONER)) < 1e-5


def test_inspect_says_what_it_is(adapter, capsys):
    assert main(["inspect", str(adapter)]) == 0
    said = capsys.readouterr().out
    assert "LoRA of rank 2, 16 tensors, task None; changes query" in said
    assert ANSWERER in said
    report = inspect_checkpoint(adapter)
    assert report.adapter["targets"] == ["query"]
    assert report.complete


def test_an_adapter_of_an_original_checkpoint(bases, tmp_path):
    expected = adapt(bases, ANSWERER, tmp_path / "lora", target_modules=["qkv", "query"])
    convert(bases / ANSWERER, tmp_path / "original.pth")
    edit(tmp_path / "lora", base_model_name_or_path=str(tmp_path / "original.pth"))
    assert difference(expected, answer(load("blip_pt", ANSWERER, tmp_path / "lora"), ANSWERER)) < 1e-5


def test_the_base_is_found_beside_the_adapter_or_as_it_is_said(bases, adapter, tmp_path):
    wanted = open_checkpoint(adapter)
    shutil.copytree(bases / ANSWERER, tmp_path / "base")
    for name, given in (("../base", None), (None, bases / ANSWERER), ("/nowhere/at/all", str(bases / ANSWERER))):
        edit(adapter, base_model_name_or_path=name)
        found = open_checkpoint(adapter, base_model=given)
        assert all(np.array_equal(found[tensor], wanted[tensor]) for tensor in wanted)
    with pytest.raises(ValueError, match="base_model= goes with an adapter"):
        open_checkpoint(bases / ANSWERER, base_model=bases / ANSWERER)


def test_a_folder_of_both_means_the_adapter(bases, adapter):
    wanted = open_checkpoint(adapter)
    for path in (bases / ANSWERER).iterdir():
        shutil.copy(path, adapter)
    edit(adapter, base_model_name_or_path=str(adapter))
    found = open_checkpoint(adapter)
    assert found.adapter["rank"] == 2
    assert all(np.array_equal(found[tensor], wanted[tensor]) for tensor in wanted)


def test_the_processor_of_an_adapter_is_that_of_its_base(bases, adapter):
    BlipProcessor.from_pretrained(bases / ANSWERER).save_pretrained(bases / ANSWERER)
    assert BlipProcessor.from_pretrained(adapter).image_processor.size == {"height": 32, "width": 32}


def test_a_pickled_adapter_is_read_without_running_it(bases, adapter):
    torch = pytest.importorskip("torch")
    wanted = open_checkpoint(adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, adapter / "adapter_model.bin")
    found = open_checkpoint(adapter)
    assert all(np.array_equal(found[tensor], wanted[tensor]) for tensor in wanted)
    torch.save(
        {**{name: torch.from_numpy(value) for name, value in tensors.items()}, "x": Path("/")},
        adapter / "adapter_model.bin",
    )
    with pytest.raises(ValueError, match="holds more than tensors and was not loaded"):
        open_checkpoint(adapter)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "an adapter of kind DoRA; only plain LoRA is merged here: merge it with PEFT"),
        ({"peft_type": "IA3"}, "of kind IA3"),
        ({"peft_type": None}, "of kind None"),
        ({"init_lora_weights": "pissa_niter_4"}, "LoRA that began by changing its base"),
        ({"trainable_token_indices": [3]}, "LoRA with trainable_token_indices"),
        ({"r": "many"}, "r must be a number, got 'many'"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern must give numbers to names of modules"),
        ({"base_model_name_or_path": None}, "names no base model; say which it is with base_model="),
    ],
)
def test_other_kinds_are_named(adapter, settings, said):
    edit(adapter, **settings)
    with pytest.raises(ValueError, match=said) as error:
        open_checkpoint(adapter)
    assert "\n" not in str(error.value)


def test_an_adapter_without_its_base(adapter):
    edit(adapter, base_model_name_or_path="/nowhere/base")
    with pytest.raises(OSError, match=r"is a LoRA adapter \(rank 2\) whose base model is not found.*base_model="):
        open_checkpoint(adapter)


def test_an_adapter_of_another_head_or_other_shapes(bases, adapter):
    for base in (CAPTIONER, RETRIEVAL):
        with pytest.raises(
            ValueError, match=r"the base has no text_(encoder|decoder).*the adapter is of another model"
        ):
            open_checkpoint(adapter, base_model=bases / base)
    adapt(bases, RETRIEVAL, adapter.parent / "matching", target_modules=["query"])
    with pytest.raises(ValueError, match=r"its adapter changes text_encoder.*which this model class does not have"):
        load("blip_pt", CAPTIONER, adapter.parent / "matching")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: np.ones((2, 7), np.float32)}, path)
    with pytest.raises(ValueError, match=r"\[32, 32\] of the base does not go with .*lora_A.weight \[2, 7\]"):
        open_checkpoint(adapter)
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(ValueError, match="does not go with"):
        open_checkpoint(adapter)
    save_file({**tensors, name.replace("lora_A.weight", "lora_magnitude_vector"): np.ones(32, np.float32)}, path)
    with pytest.raises(ValueError, match="lora_magnitude_vector, which plain LoRA does not have"):
        open_checkpoint(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(OSError, match=r"is an adapter, but adapter_config\.json, which says of what kind"):
        open_checkpoint(adapter)
