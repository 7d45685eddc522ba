"""`check_parity` and `blip parity`: agreement is seen, and every kind of damage is found and named."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("blip_pt")
pytest.importorskip("blip_tf")

from blip_core.cli import main
from blip_core.files import read_json, write_json
from blip_core.saving import Stored, write_safetensors
from conversion import check_parity, convert
from conversion.formats import open_any
from tests.conversion_helpers import ORIGINAL, random_checkpoint
from tests.helpers import HEADS

CAPTION = "BlipForConditionalGeneration"
BLOCK = "text_decoder.bert.blocks.1.attention"
LAYER = "text_decoder.bert.encoder.layer.1.attention"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a random captioner."""
    folder = tmp_path_factory.mktemp("parity") / "model"
    random_checkpoint(folder, CAPTION, scale=0.2)
    return folder


@pytest.fixture
def damaged(model, tmp_path):
    """Copies the model with a change of its tensors."""

    def damage(change):
        shutil.copytree(model, tmp_path / "damaged")
        source = open_any(model)
        tensors = {name: source[name].copy() for name in source}
        change(tensors)
        stored = [Stored((n,), a.shape, a.dtype, lambda a=a: a) for n, a in tensors.items()]
        write_safetensors(tmp_path / "damaged" / "model.safetensors", stored)
        return tmp_path / "damaged"

    return damage


@pytest.mark.parametrize("head", [pytest.param(h, marks=[pytest.mark.slow] * (h != CAPTION)) for h in HEADS[:7]])
def test_both_frameworks_agree(tmp_path, head):
    random_checkpoint(tmp_path / "model", head, scale=0.2)
    report = check_parity(tmp_path / "model")
    assert report.passed, report.first_failure
    kinds = {row.kind for row in report.rows}
    assert kinds >= {"weights", "values", "gradients"}
    if head == CAPTION:
        stages = [row.stage for row in report.rows]
        expected = ["pixel values", "patch embedding", "vision block 2", "text decoder layer 1", "logits", "loss"]
        assert [stage for stage in stages if stage in expected] == expected
        assert [stage for stage in stages if stage.startswith("tokens")] == [
            "tokens, greedy", "tokens, 3 beams", "tokens, sampling",
        ]  # fmt: skip


def swap(tensors):
    names = f"{LAYER}.self.query.weight", f"{LAYER}.self.key.weight"
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def transpose(tensors):
    name = "vision_model.encoder.layers.1.self_attn.projection.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def shift(tensors):
    tensors["vision_model.embeddings.position_embedding"][:] = np.roll(
        tensors["vision_model.embeddings.position_embedding"], 1, axis=1
    )


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            swap,
            {
                f"{BLOCK}.query.weight": f"holds {BLOCK}.key.weight",
                f"{BLOCK}.key.weight": f"holds {BLOCK}.query.weight",
            },
        ),
        (transpose, {"vision_model.blocks.1.attention.projection.weight": "is transposed"}),
        (shift, {"vision_model.position_embedding": ""}),
    ],
)
def test_a_damaged_weight_is_named(model, damaged, change, names):
    report = check_parity(model, other=damaged(change))
    assert {row.stage: row.note for row in report.rows if row.kind == "weights" and not row.passed} == names
    first = next(row for row in report.rows if row.kind == "values" and not row.passed)
    place = {swap: "text decoder layer 1", transpose: "vision block 1", shift: "patch embedding"}[change]
    assert first.stage.startswith(place)


def test_a_layer_norm_eps_is_named(model, damaged):
    folder = damaged(lambda tensors: None)
    config = read_json(folder / "config.json")
    config["vision_config"]["layer_norm_eps"] = 1e-2
    write_json(folder / "config.json", config)
    report = check_parity(model, other=folder, framework="tf")
    assert report.first_failure.stage == "vision_config.layer_norm_eps"
    assert report.first_failure.note == "1e-05 and 0.01"
    first = next(row for row in report.rows if row.kind == "values" and not row.passed)
    assert first.stage == "vision block 0"


def test_a_stale_tied_tensor_is_named(model, damaged):
    def stale(tensors):
        words = tensors["text_decoder.bert.embeddings.word_embeddings.weight"]
        tensors["text_decoder.cls.predictions.decoder.weight"] = words + np.float32(1e-3)

    report = check_parity(model, other=damaged(stale))
    assert report.first_failure.stage == "tied tensors"
    assert "text_decoder.cls.predictions.decoder.weight differs from" in report.first_failure.note


def test_before_and_after_conversion(model, tmp_path):
    convert(model, tmp_path / "new", "weights.h5")
    convert(tmp_path / "new", tmp_path / "back")
    report = check_parity(model, other=tmp_path / "back")
    assert report.passed
    assert max(row.relative for row in report.rows) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(model, dtype):
    report = check_parity(model, dtype=dtype)
    assert report.passed, report.first_failure
    assert max(row.relative for row in report.rows) > 1e-5


def test_the_command_prints_a_table_json_and_a_page(model, damaged, tmp_path, capsys):
    page = tmp_path / "parity.html"
    assert main(["parity", str(model), "--other", str(damaged(shift)), "--html", str(page)]) == 1
    out = capsys.readouterr().out
    assert "vision_model.position_embedding" in out
    assert "DIFFER, first in vision_model.position_embedding (weights)." in out.splitlines()[-1]
    text = page.read_text()
    assert "<svg" in text
    assert "vision block 2" in text
    assert not {"http:", "https:", "<script", "src="} & set(text.split())
    assert main(["parity", str(model), "--other", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["first_failure"] is None


def test_options_that_make_no_sense(model):
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16"):
        check_parity(model, dtype="float8")


def test_the_state_of_training_is_compared_and_models_without_stages_are_refused():
    heads = {"text_config": {"num_attention_heads": 2}, "vision_config": {"num_attention_heads": 3}}
    report = check_parity(ORIGINAL / "retrieval.pth", config=heads)
    assert report.head == "BlipForImageTextRetrieval"
    assert report.passed
    for name, remedy in (("pretrain", "head='BlipForConditionalGeneration'"), ("nlvr", "head='BlipVisionModel'")):
        with pytest.raises(ValueError, match=remedy):
            check_parity(ORIGINAL / f"{name}.pth", config=heads)
