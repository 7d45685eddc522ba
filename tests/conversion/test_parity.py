"""`check_parity` and `blip parity`: agreement is seen, and every kind of damage is found and named."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.safetensors_file import write_arrays
from blip_core.checkpoints.saving import write_pretrained
from blip_core.cli import main
from blip_core.engines import ENGINES, Engine
from blip_core.files import read_json, write_json
from blip_core.parameters.heads import HEADS as ROWS
from blip_core.parameters.initial_values import initial_values
from blip_core.parameters.models import parameters, training_state
from conversion import check_parity, convert
from conversion.parity_inputs import drawings
from conversion.parity_models import ParityModel
from tests.helpers.checkpoint_files import ATTENTION_HEADS, ORIGINAL, random_checkpoint
from tests.helpers.random_models import CONFIGS_OF, HEADS, head_config

pytestmark = pytest.mark.needs("pt", "tf")
CAPTION = "BlipForConditionalGeneration"
RETRIEVAL = "BlipForImageTextRetrieval"
LAYER = "text_decoder.bert.encoder.layer.1.attention"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a random captioner."""
    folder = tmp_path_factory.mktemp("parity") / "model"
    random_checkpoint(folder, CAPTION, scale=0.2)
    return folder


@pytest.fixture
def damaged_copy(tmp_path):
    """Copies a model with a change of its tensors."""

    def damage(folder, change):
        shutil.copytree(folder, tmp_path / "damaged")
        source = open_checkpoint(folder)
        tensors = {name: source[name].copy() for name in source}
        change(tensors)
        write_arrays(tmp_path / "damaged" / "model.safetensors", tensors)
        return tmp_path / "damaged"

    return damage


@pytest.fixture
def damaged(model, damaged_copy):
    """Copies the captioner with a change of its tensors."""
    return lambda change: damaged_copy(model, change)


@pytest.mark.parametrize("head", [pytest.param(h, marks=[pytest.mark.slow] * (h != CAPTION)) for h in HEADS])
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
                f"{LAYER}.self.query.weight": f"holds {LAYER}.self.key.weight",
                f"{LAYER}.self.key.weight": f"holds {LAYER}.self.query.weight",
            },
        ),
        (transpose, {"vision_model.encoder.layers.1.self_attn.projection.weight": "is transposed"}),
        (shift, {"vision_model.embeddings.position_embedding": ""}),
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
    report = check_parity(model, other=folder, engines=("tf",))
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
    assert "vision_model.embeddings.position_embedding" in out
    assert "DIFFER, first in vision_model.embeddings.position_embedding (weights)." in out.splitlines()[-1]
    text = page.read_text()
    assert "<svg" in text
    assert "vision block 2" in text
    assert ">text decoder</text>" in text
    assert "class=bad>patch embedding</text>" in text
    assert 1 < sum(" gradients " in line for line in out.splitlines()) <= 10
    assert not {"http:", "https:", "<script", "src="} & set(text.split())
    assert main(["parity", str(model), "--other", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["first_failure"] is None


@pytest.mark.parametrize("head", [pytest.param(h, marks=[pytest.mark.slow] * (h != RETRIEVAL)) for h in HEADS])
def test_a_model_that_learned_nothing_passes(tmp_path, head):
    """Its biases are 0, and after a step those whose true gradient is 0 are rounding errors."""
    config = head_config(head, CONFIGS_OF["wide"])
    rows = [*parameters(head, config), *(training_state(head, config) if ROWS[head].state else [])]
    values = {row.name: value for row, value in initial_values(rows, config, seed=0)}
    write_pretrained(tmp_path, head, config, rows, lambda row: values[row.name])
    report = check_parity(tmp_path)
    assert report.passed, report.first_failure
    assert ("training state after a step" in {row.stage for row in report.rows}) == bool(ROWS[head].state)


@pytest.mark.parametrize(("names", "factor"), [("text_decoder.bert.encoder.layer.1.", 0.0), ("", 1.01)])
def test_a_step_that_one_engine_takes_otherwise_is_found(model, monkeypatch, names, factor):
    descend = ParityModel.step

    def other(self, gradients, inputs):
        scale = np.float32(factor if self.name == "TensorFlow" else 1)
        descend(self, {n: g * scale if n.startswith(names) else g for n, g in gradients.items()}, inputs)

    monkeypatch.setattr(ParityModel, "step", other)
    assert [row.stage for row in check_parity(model).rows if not row.passed] == ["weights after a step"]


def test_any_registered_engine_takes_part(model, monkeypatch):
    monkeypatch.setitem(ENGINES, "again", Engine("again", "PyTorch again", "torch", "blip_pt", extra="pt"))
    report = check_parity(model, engines=("pt", "again"))
    assert report.passed
    assert (report.one, report.other) == ("PyTorch", "PyTorch again")
    assert max(row.relative for row in report.rows) == 0


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """A function that exports the captioner, each form and type of weights once."""
    pytest.importorskip("onnx")
    folder, made = tmp_path_factory.mktemp("exports"), {}

    def export(to, weights=None):
        if (to, weights) not in made:
            made[to, weights] = folder / f"{to}-{weights}"
            convert(model, made[to, weights], to=to, weights=weights)
        return made[to, weights]

    return export


@pytest.mark.parametrize("head", [pytest.param(h, marks=[pytest.mark.slow] * (h != "BlipForNLVR")) for h in HEADS])
def test_engines_of_exports_agree(tmp_path, head):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    random_checkpoint(tmp_path / "model", head, scale=0.2)
    report = check_parity(tmp_path / "model", engines=("pt", "onnx", "openvino"))
    assert report.passed, report.first_failure
    assert (report.one, report.other) == ("PyTorch", "ONNX Runtime and OpenVINO")
    stages = [[row.stage for row in report.rows if row.other == name] for name in ("ONNX Runtime", "OpenVINO")]
    assert stages[0] == stages[1]
    assert any(row.relative > 0 for row in report.rows)
    if head == "BlipForNLVR":
        assert stages[0] == ["image_features: image_embeds", "image_features: pooler_output", "nlvr_scores: logits"]


def test_the_command_compares_several_engines_on_one_page(model, tmp_path, capsys):
    pytest.importorskip("openvino")
    page = tmp_path / "parity.html"
    assert main(["parity", str(model), "--engines", "pt,tf,openvino", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"{CAPTION}, float32: PyTorch and TensorFlow and OpenVINO agree in all")
    for words in ("PyTorch and TensorFlow", "PyTorch and OpenVINO", "next step: logits", "tokens, 3 beams"):
        assert words in out
    assert page.read_text().count("<svg") == page.read_text().count("<h2>") == 2


def test_an_export_against_its_source(model, exports):
    pytest.importorskip("openvino")
    report = check_parity(model, other=exports("onnx"), engines=("pt", "onnx", "openvino"))
    assert report.passed, report.first_failure
    assert report.other == " and ".join(f"{exports('onnx')} in {name}" for name in ("ONNX Runtime", "OpenVINO"))
    report = check_parity(model, other=exports("onnx", "int8"))
    assert report.passed, report.first_failure
    assert report.other == str(exports("onnx", "int8"))
    assert max(row.relative for row in report.rows if row.kind == "values") > 1e-4
    assert all(row.passed for row in check_parity(exports("onnx"), engines=("onnx", "openvino")).rows)
    with pytest.raises(FileNotFoundError, match="is an export whose weights are no checkpoint; open the model"):
        check_parity(exports("openvino"), engines=("pt", "openvino"))
    with pytest.raises(ValueError, match="is an export to openvino, and ONNX Runtime runs exports to onnx"):
        check_parity(exports("openvino"), engines=("openvino", "onnx"))


def test_a_damaged_export_is_found(model, exports, tmp_path):
    folder = shutil.copytree(exports("onnx"), tmp_path / "export")
    weights = open_checkpoint(folder)
    tensors = {name: weights[name].copy() for name in weights}
    transpose(tensors)
    write_arrays(folder / "model.safetensors", tensors)
    report = check_parity(model, other=folder)
    failed = [row.stage for row in report.rows if not row.passed and row.kind == "values"]
    assert failed == ["image_features: image_embeds", "image_features: pooler_output"]  # parts get what is right


def test_options_that_make_no_sense(model):
    with pytest.raises(ValueError, match="engine must be one of pt, tf, onnx, openvino, got 'jax'"):
        check_parity(model, engines=("pt", "jax"))
    with pytest.raises(ValueError, match=r"engines must be two of pt, tf, onnx, openvino \(one with other=\), got pt"):
        check_parity(model, engines=("pt",))
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16"):
        check_parity(model, dtype="float8")


@pytest.mark.parametrize("name", ["nlvr", "pretrain", "retrieval"])
def test_models_of_pairs_agree_with_their_losses_and_the_state_of_training(name):
    report = check_parity(ORIGINAL / f"{name}.pth", config=ATTENTION_HEADS)
    assert report.passed, report.first_failure
    stages = {row.stage for row in report.rows if row.kind == "values"}
    assert {"vision block 1", "text encoder layer 7", "text encoder with picture layer 7"} < stages
    assert (
        stages
        > {
            "nlvr": {"logits", "loss"},
            "pretrain": {"text decoder layer 7", "momentum text states", "logits", "loss_itc", "loss_itm", "loss_lm"},
            "retrieval": {
                "itm_score (cosines)",
                "momentum image embeddings",
                "loss_itc (training)",
                "loss_itm (training)",
            },
        }[name]
    )
    assert ("training state after a step" in stages) == (name != "nlvr")
    gradients = {row.stage for row in report.rows if row.kind == "gradients"}
    head = {
        "nlvr": "cls_head.2.weight",
        "pretrain": "text_decoder.cls.predictions.transform.dense.weight",
        "retrieval": "temp",
    }[name]
    assert {head, "vision_model.embeddings.class_embedding"} < gradients
    assert not any("_m." in name for name in gradients)


def swap_branches(tensors):
    names = [f"text_encoder.encoder.layer.7.crossattention.self{branch}.key.weight" for branch in (0, 1)]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def swap_encoder_and_decoder(tensors):
    names = [f"text_{part}.encoder.layer.2.attention.self.value.weight" for part in ("encoder", "decoder.bert")]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def lose_momentum(tensors):
    tensors["text_encoder_m.embeddings.LayerNorm.weight"] += np.float32(0.1)


def move_the_queue(tensors):
    tensors["queue_ptr"] += 1


@pytest.mark.parametrize(
    ("change", "names", "stage"),
    [
        (
            swap_branches,
            {
                f"text_encoder.encoder.layer.7.crossattention.self{branch}.key.weight":
                f"holds text_encoder.encoder.layer.7.crossattention.self{1 - branch}.key.weight"
                for branch in (0, 1)
            },
            "text encoder with picture layer 7",
        ),
        (
            swap_encoder_and_decoder,
            {
                "text_encoder.encoder.layer.2.attention.self.value.weight":
                "holds text_decoder.bert.encoder.layer.2.attention.self.value.weight",
                "text_decoder.bert.encoder.layer.2.attention.self.value.weight":
                "holds text_encoder.encoder.layer.2.attention.self.value.weight",
            },
            "text encoder layer 2",
        ),
        (lose_momentum, {"text_encoder_m.embeddings.LayerNorm.weight": ""}, "momentum text states"),
        (move_the_queue, {"queue_ptr": ""}, "training state after a step"),
    ],
)  # fmt: skip
def test_a_damaged_weight_of_a_model_of_pairs_is_named(tmp_path, damaged_copy, change, names, stage):
    name = "nlvr" if change is swap_branches else "pretrain"
    convert(ORIGINAL / f"{name}.pth", tmp_path / "whole", config=ATTENTION_HEADS)
    report = check_parity(tmp_path / "whole", other=damaged_copy(tmp_path / "whole", change))
    assert {row.stage: row.note for row in report.rows if row.kind == "weights" and not row.passed} == names
    assert next(row.stage for row in report.rows if row.kind == "values" and not row.passed) == stage


def test_a_state_of_training_that_is_lost_is_the_only_difference(tmp_path):
    convert(ORIGINAL / "retrieval.pth", tmp_path / "keras", "tf_model.h5", config=ATTENTION_HEADS)
    convert(tmp_path / "keras", tmp_path / "back")
    report = check_parity(ORIGINAL / "retrieval.pth", other=tmp_path / "back", config=ATTENTION_HEADS)
    assert [(row.stage, row.note) for row in report.rows if not row.passed] == [("training state", "only in the first")]


def test_one_picture_is_enough(tmp_path):
    drawings()[1].save(tmp_path / "one.png")
    report = check_parity(ORIGINAL / "nlvr.pth", [tmp_path / "one.png"], ["two dogs"], config=ATTENTION_HEADS)
    assert report.passed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["nlvr", "pretrain", "retrieval"])
def test_models_of_pairs_in_half_precision(name, dtype):
    report = check_parity(ORIGINAL / f"{name}.pth", config=ATTENTION_HEADS, dtype=dtype)
    assert report.passed, report.first_failure


def test_the_parity_tests_are_loaded_by_name_alone():
    """An entry point would load our plugin into the pytest of every project, and fail where `conversion` is another."""
    root = Path(__file__).parents[2]
    assert "pytest11" not in tomllib.loads((root / "pyproject.toml").read_text())["project"].get("entry-points", {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conversion.parity_tests.plugin"]
    command += ["--pyargs", "conversion.parity_tests"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Name the checkpoint to test with --checkpoint FOLDER" in done.stdout + done.stderr
