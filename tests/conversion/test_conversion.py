"""`convert`: every format into every other, bit by bit, and the options."""

import importlib
import json
import shutil

import h5py
import ml_dtypes
import numpy as np
import pytest

from blip_core import BlipTokenizer
from blip_core.checkpoints import open_checkpoint
from blip_core.files import read_json, write_json
from blip_core.parameters.heads import HEADS as ROWS
from blip_core.parameters.matching import find_model, label_tensors
from blip_core.parameters.position_embeddings import resize_positions
from conversion import convert
from tests.helpers.checkpoint_files import (
    ATTENTION_HEADS,
    FORMATS,
    HEADS_OF,
    ORIGINAL,
    TRANSFORMERS,
    differences,
    random_checkpoint,
)  # fmt: skip
from tests.helpers.random_models import CONFIGS_OF, HEADS, numpy

CAPTION = "BlipForConditionalGeneration"
STATE = ("BlipForPreTraining", "BlipForImageTextRetrieval")


@pytest.fixture
def model(tmp_path):
    """A folder with a random captioner."""
    random_checkpoint(tmp_path / "model", CAPTION)
    return tmp_path / "model"


@pytest.mark.parametrize("to", ["safetensors", "pytorch_model.bin", "pth", "weights.h5"])
@pytest.mark.parametrize("name", HEADS_OF)
def test_originals_come_back_bit_by_bit_with_their_training_state(tmp_path, name, to):
    report = convert(ORIGINAL / f"{name}.pth", tmp_path / "folder", to, config=ATTENTION_HEADS)
    assert (report.head, report.left_out, report.initialised) == (HEADS_OF[name], [], [])
    convert(tmp_path / "folder", tmp_path / "back.pth")
    assert differences(ORIGINAL / f"{name}.pth", tmp_path / "back.pth") == []


@pytest.mark.parametrize("name", HEADS_OF)
def test_originals_come_back_from_keras_2_without_the_training_state(tmp_path, name):
    report = convert(ORIGINAL / f"{name}.pth", tmp_path / "folder", "tf_model.h5", config=ATTENTION_HEADS)
    convert(tmp_path / "folder", tmp_path / "back.pth")
    buffers = {f"{text}.embeddings.position_ids" for text in ("text_encoder_m",)}
    assert set(differences(ORIGINAL / f"{name}.pth", tmp_path / "back.pth")) <= {*report.left_out, *buffers}
    assert all(part.split(".")[0].endswith(("_m", "queue", "temp", "ptr")) for part in report.left_out)
    assert bool(report.left_out) == (name in ("retrieval", "pretrain"))


@pytest.mark.parametrize("head", HEADS)
def test_a_chain_through_all_formats_changes_no_bit(tmp_path, head):
    random_checkpoint(tmp_path / "0", head)
    formats = [
        "weights.h5",
        "pytorch_model.bin",
        "tf_model.h5",
        "safetensors",
        "tf_model.h5",
        "weights.h5",
        "safetensors",
    ]
    for step, to in enumerate(formats):
        convert(tmp_path / f"{step}", tmp_path / f"{step + 1}", to)
    if head == "BlipForPreTraining":  # a conversion stores its decoder as a whole, and for Keras its training state
        assert {label_tensors(head, {name: 0})[name] for name in differences(tmp_path / "4", tmp_path / "7")} == {
            part.label for part in ROWS[head].state
        }
    else:
        assert differences(tmp_path / "0", tmp_path / "7") == []
    assert read_json(tmp_path / "0" / "config.json") == read_json(tmp_path / "7" / "config.json")


def test_tensors_of_many_pieces_come_through(tmp_path, monkeypatch):
    values = random_checkpoint(tmp_path / "model", CAPTION)
    monkeypatch.setattr("blip_core.checkpoints.writing.PIECE", 500)
    monkeypatch.setattr("blip_core.checkpoints.writing.WRITE", 300)
    monkeypatch.setattr("blip_core.checkpoints.writing.LEAST_ROWS", 6)
    monkeypatch.setattr("blip_core.checkpoints.writing.TILE", 5)
    convert(tmp_path / "model", tmp_path / "keras", "weights.h5")
    convert(tmp_path / "keras", tmp_path / "torch", "pytorch_model.bin")
    monkeypatch.undo()
    for folder in ("keras", "torch"):
        written = open_checkpoint(tmp_path / folder)
        assert all(np.array_equal(written[name], value) for name, value in values.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS_OF)
@pytest.mark.parametrize("head", HEADS)
def test_all_pairs_of_formats(tmp_path, head, name):
    random_checkpoint(tmp_path / "safetensors", head, CONFIGS_OF[name])
    formats = [to for to in FORMATS if to != "pth" or head in HEADS_OF.values()]
    for to in formats[1:]:
        convert(tmp_path / "safetensors", tmp_path / to, to)
    for source in formats:
        for to in formats:
            convert(tmp_path / source, tmp_path / "new", to, overwrite=True)
            if source != "safetensors" or head != "BlipForPreTraining":
                assert not differences(tmp_path / "new", tmp_path / to), (source, to)


@pytest.mark.parametrize("head", ["BlipForConditionalGeneration", "BlipModel"])
def test_both_files_of_transformers_hold_the_same_weights(head):
    copies = ["text_decoder.cls.predictions.decoder.bias"] if head == CAPTION else []  # PyTorch's file has it twice
    folder = TRANSFORMERS / head
    assert differences(folder / "pytorch_model.bin", folder / "tf_model.h5") == copies


def test_keras_2_files_are_written_as_transformers_writes_them(tmp_path):
    def layout(path):
        with h5py.File(path) as file:
            names = {layer: list(file[layer].attrs["weight_names"]) for layer in file.attrs["layer_names"]}
            datasets = {}
            file.visititems(
                lambda name, entry: datasets.update({name: entry[()].tobytes()}) if hasattr(entry, "dtype") else None
            )
            return {layer: set(found) for layer, found in names.items()}, datasets

    convert(TRANSFORMERS / CAPTION / "pytorch_model.bin", tmp_path / "new", "tf_model.h5")
    assert layout(tmp_path / "new" / "tf_model.h5") == layout(TRANSFORMERS / CAPTION / "tf_model.h5")


def test_a_head_is_cut_out_of_a_pretraining_checkpoint(tmp_path):
    source = open_checkpoint(ORIGINAL / "pretrain.pth")
    for head in ("BlipForConditionalGeneration", "BlipForImageTextRetrieval", "BlipVisionModel"):
        report = convert(ORIGINAL / "pretrain.pth", tmp_path / head, head=head, config=ATTENTION_HEADS)
        cut = open_checkpoint(tmp_path / head)
        assert find_model(cut) == head
        assert report.initialised == []
        assert "queue_ptr" in report.left_out
    matcher = open_checkpoint(tmp_path / "BlipForImageTextRetrieval")
    assert np.array_equal(matcher["itm_head.weight"], source["itm_head.weight"])
    captioner = open_checkpoint(tmp_path / "BlipForConditionalGeneration")
    name = "text_decoder.bert.encoder.layer.3.attention.self.key.weight"
    assert np.array_equal(captioner[name], source[name])


@pytest.mark.parametrize("to", ["safetensors", "pytorch_model.bin", "tf_model.h5", "weights.h5"])
def test_a_captioner_is_cut_out_of_a_converted_pretraining_checkpoint(tmp_path, to):
    convert(ORIGINAL / "pretrain.pth", tmp_path / "all", to, config=ATTENTION_HEADS)
    convert(tmp_path / "all", tmp_path / "cut", head=CAPTION)
    convert(ORIGINAL / "pretrain.pth", tmp_path / "direct", head=CAPTION, config=ATTENTION_HEADS)
    assert differences(tmp_path / "cut", tmp_path / "direct") == []


def test_one_picture_widens_into_two_branches(tmp_path):
    source = open_checkpoint(ORIGINAL / "itm.pth")
    report = convert(ORIGINAL / "itm.pth", tmp_path / "nlvr", head="BlipForNLVR", config=ATTENTION_HEADS)
    assert report.initialised == ["text encoder's merging layers", "classification head"]
    wide = open_checkpoint(tmp_path / "nlvr")
    cross = "text_encoder.encoder.layer.5.crossattention"
    for branch in "01":
        assert np.array_equal(wide[f"{cross}.self{branch}.key.weight"], source[f"{cross}.self.key.weight"])
        assert np.array_equal(wide[f"{cross}.output.dense{branch}.bias"], source[f"{cross}.output.dense.bias"])
    assert f"{cross}.output.merge_layer.weight" not in wide
    assert wide["text_encoder.encoder.layer.6.crossattention.output.merge_layer.weight"].std() > 0.01


def test_what_is_new_is_the_same_each_time(tmp_path):
    for name in "ab":
        convert(ORIGINAL / "itm.pth", tmp_path / name, head="BlipForNLVR", config=ATTENTION_HEADS)
    assert differences(tmp_path / "a", tmp_path / "b") == []


@pytest.mark.parametrize(("dtype", "kind"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("to", ["safetensors", "pth", "weights.h5"])
def test_types_are_changed_and_kept(tmp_path, dtype, kind, to):
    report = convert(ORIGINAL / "pretrain.pth", tmp_path / "half", to, dtype=dtype, config=ATTENTION_HEADS)
    convert(tmp_path / "half", tmp_path / "back", "safetensors")
    source, half = open_checkpoint(ORIGINAL / "pretrain.pth"), open_checkpoint(tmp_path / "back")
    assert report.dtype == dtype == read_json(tmp_path / "back" / "config.json")["dtype"]
    assert np.array_equal(half["itm_head.weight"], source["itm_head.weight"].astype(kind))
    assert half["queue_ptr"].dtype == np.int64


def test_types_that_lose_a_weight_are_refused(tmp_path, model):
    with pytest.raises(ValueError, match=r"tf_model.h5 cannot hold bfloat16; pass dtype='float32'"):
        convert(model, tmp_path / "new", "tf_model.h5", dtype="bfloat16")
    convert(model, tmp_path / "half", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"tf_model.h5 cannot hold bfloat16"):
        convert(tmp_path / "half", tmp_path / "new", "tf_model.h5")
    shutil.copy(TRANSFORMERS / CAPTION / "tf_model.h5", tmp_path)
    (tmp_path / "tf_model.h5").chmod(0o600)
    with h5py.File(tmp_path / "tf_model.h5", "r+") as file:
        file["vision_model/tf_blip_for_conditional_generation/vision_model/post_layernorm/beta:0"][0] = 1e5
    with pytest.raises(ValueError, match=r"post_layernorm.bias holds numbers that float16 cannot"):
        convert(
            tmp_path / "tf_model.h5", tmp_path / "new", dtype="float16", config=TRANSFORMERS / CAPTION / "config.json"
        )
    assert not (tmp_path / "new").exists()


def test_positions_are_resized_with_the_processor(tmp_path):
    convert(ORIGINAL / "caption.pth", tmp_path / "new", image_size=80, config=ATTENTION_HEADS)
    name = "vision_model.embeddings.position_embedding"
    expected = resize_positions(open_checkpoint(ORIGINAL / "caption.pth")["visual_encoder.pos_embed"], 26)
    assert np.array_equal(open_checkpoint(tmp_path / "new")[name], expected)
    assert read_json(tmp_path / "new" / "config.json")["vision_config"]["image_size"] == 80
    assert read_json(tmp_path / "new" / "preprocessor_config.json")["size"] == {"height": 80, "width": 80}


@pytest.mark.parametrize("to", ["safetensors", "pytorch_model.bin"])
def test_shards(tmp_path, model, to):
    convert(model, tmp_path / "shards", to, max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*-of-*"))) > 3
    convert(tmp_path / "shards", tmp_path / "one")
    assert differences(tmp_path / "one", model) == []
    with pytest.raises(ValueError, match=r"tf_model.h5 is always one file"):
        convert(model, tmp_path / "new", "tf_model.h5", max_shard_size="20KB")


def test_the_configuration_is_recovered_from_an_original(tmp_path):
    convert(ORIGINAL / "retrieval.pth", tmp_path / "new", config=ATTENTION_HEADS)
    config = read_json(tmp_path / "new" / "config.json")
    assert config["vision_config"].items() >= {"layer_norm_eps": 1e-6, "image_size": 48, "patch_size": 16}.items()
    assert config["text_config"].items() >= {"label_smoothing": 0.1, "vocab_size": 200, "bos_token_id": 198}.items()
    assert config.items() >= {"enc_token_id": 199, "image_text_hidden_size": 8, "queue_size": 8}.items()
    assert config["architectures"] == ["BlipForImageTextRetrieval"]


def test_a_med_config_is_understood(tmp_path):
    med = {"model_type": "bert", "num_attention_heads": 2, "hidden_size": 16, "encoder_width": 16, "hidden_act": "relu"}
    write_json(tmp_path / "med_config.json", med)
    with pytest.raises(ValueError, match="vision_config"):  # it says nothing of the vision model's heads
        convert(ORIGINAL / "caption.pth", tmp_path / "new", config=tmp_path / "med_config.json")
    convert(ORIGINAL / "caption.pth", tmp_path / "first", config=ATTENTION_HEADS)
    convert(tmp_path / "first", tmp_path / "new", config=tmp_path / "med_config.json")
    assert read_json(tmp_path / "new" / "config.json")["text_config"]["hidden_act"] == "relu"


def test_an_original_written_here_keeps_its_configuration(tmp_path, model):
    report = convert(model, tmp_path / "new.pth")
    assert "vision_config.layer_norm_eps is 1e-05, where the original has 1e-06" in report.warnings[0]
    convert(tmp_path / "new.pth", tmp_path / "back")
    assert read_json(tmp_path / "back" / "config.json") == read_json(model / "config.json")
    assert differences(tmp_path / "back", model) == []


def test_processor_and_tokenizer_files_are_kept(tmp_path, model):
    write_json(model / "preprocessor_config.json", {"size": {"height": 32, "width": 32}, "resample": 2, "mine": 1})
    (model / "vocab.txt").write_text("a\nb\n")
    write_json(model / "generation_config.json", {"num_beams": 3, "prompt_ids": [5]})
    report = convert(model, tmp_path / "new", "weights.h5")
    assert report.warnings == []
    assert read_json(tmp_path / "new" / "preprocessor_config.json")["mine"] == 1
    assert (tmp_path / "new" / "vocab.txt").read_text() == "a\nb\n"
    generation = read_json(tmp_path / "new" / "generation_config.json")
    assert (generation["num_beams"], generation["prompt_ids"]) == (3, [5])


def test_the_vocabulary_must_be_the_models(tmp_path, model):
    report = convert(model, tmp_path / "without")
    assert "vocabulary of 90 tokens" in report.warnings[0]
    assert not (tmp_path / "without" / "vocab.txt").exists()
    BlipTokenizer().save_pretrained(tmp_path / "usual")
    with pytest.raises(ValueError, match="has 30524 tokens, but the model has 90"):
        convert(model, tmp_path / "new", tokenizer=tmp_path / "usual")
    for path in (ORIGINAL, ORIGINAL / "itm.pth"):  # without a vocabulary, which the shipped one must not stand in for
        with pytest.raises(ValueError, match=r"is no tokenizer.json or vocab.txt, and holds none"):
            convert(model, tmp_path / "new", tokenizer=path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(83))]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    assert convert(model, tmp_path / "new", tokenizer=tmp_path / "vocab.txt").warnings == []
    assert len(BlipTokenizer.from_pretrained(tmp_path / "new")) == 90


def test_a_dry_run_writes_nothing_and_tells_what_is_missing(tmp_path, model):
    report = convert(model, tmp_path / "new", dry_run=True)
    assert (report.problems, report.tensors) == ({}, len(open_checkpoint(model)))
    report = convert(model, tmp_path / "new", dry_run=True, config={"text_config": {"num_hidden_layers": 3}})
    assert report.problems["missing"][0].startswith("text_decoder.bert.encoder.layer.2.")
    with pytest.raises(ValueError, match="missing: text_decoder"):
        convert(model, tmp_path / "new", config={"text_config": {"num_hidden_layers": 3}})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tied_tensors_that_differ_are_refused(tmp_path):
    import torch

    state = torch.load(ORIGINAL / "caption.pth", weights_only=True)
    state["model"]["text_decoder.cls.predictions.decoder.weight"][5, 3] += 1e-6
    torch.save(state, tmp_path / "stale.pth")
    with pytest.raises(ValueError, match=r"decoder.weight differs from text_decoder.bert.embeddings.word_embeddings"):
        convert(tmp_path / "stale.pth", tmp_path / "new", config=ATTENTION_HEADS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "coreml"}, "to must be one of safetensors, .*; got 'coreml'"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16; got 'int8'"),
        ({"head": "BlipForAll"}, "head must be one of .*; got 'BlipForAll'"),
        ({"head": "BlipVisionModel", "to": "pth"}, "pth cannot hold a BlipVisionModel"),
        ({"image_size": 30}, "image_size must be a multiple of patch_size"),
    ],
)
def test_options_that_make_no_sense(tmp_path, model, options, message):
    with pytest.raises(ValueError, match=message):
        convert(model, tmp_path / "new", **options)
    with pytest.raises(ValueError, match="names a file of the format pth, not safetensors"):
        convert(model, tmp_path / "new.pth", "safetensors")


def test_the_command(tmp_path, model, capsys):
    from blip_core.cli import main

    assert main(["convert", str(model), str(tmp_path / "new"), "--to", "weights.h5", "--dtype", "float16"]) == 0
    captured = capsys.readouterr()
    assert "float16" in captured.out
    assert "blip: warning: The model has a vocabulary of 90 tokens" in captured.err
    assert main(["convert", str(model), str(tmp_path / "new"), "--json"]) == 1
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main(["convert", str(model), str(tmp_path / "new"), "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "safetensors"
    assert differences(tmp_path / "new", model) == []
    assert main(["convert", str(model), str(tmp_path / "cut"), "--head", "BlipForNLVR", "--dry-run"]) == 0
    assert "random      text encoder\n" in capsys.readouterr().out


SLOW_KERAS = {"BlipTextModel", "BlipTextLMHeadModel", "BlipVisionModel", "BlipForConditionalGeneration"}


@pytest.mark.parametrize("head", [pytest.param(h, marks=[pytest.mark.slow] * (h in SLOW_KERAS)) for h in HEADS])
def test_keras_loads_the_weights_and_we_read_what_it_saves(tmp_path, head):
    import blip_tf

    random_checkpoint(tmp_path / "model", head, CONFIGS_OF["deep"])
    convert(tmp_path / "model", tmp_path / "keras", "weights.h5")
    model_class = getattr(blip_tf, f"TF{head}")
    model = model_class.from_pretrained(tmp_path / "model")
    other = model_class(model.config)
    other.load_weights(tmp_path / "keras" / "model.weights.h5")
    for row in model.table():
        if "queue" not in row.name:  # a checkpoint without them begins with queues of noise
            ours, theirs = (of.get_parameter(row.name).numpy() for of in (model, other))
            assert np.array_equal(ours, theirs), row.name
    convert(tmp_path / "keras", tmp_path / "converted")
    (tmp_path / "keras" / "model.weights.h5").unlink()
    other.save_weights(tmp_path / "keras" / "model.weights.h5")
    assert differences(tmp_path / "keras", tmp_path / "converted") == []


@pytest.mark.parametrize("name", ["retrieval", "pretrain"])
def test_keras_goes_on_with_the_training_of_an_original(tmp_path, name):
    import blip_tf

    model_class = getattr(blip_tf, f"TF{HEADS_OF[name]}")
    report = convert(ORIGINAL / f"{name}.pth", tmp_path / "keras", "weights.h5", config=ATTENTION_HEADS)
    assert (report.left_out, report.initialised) == ([], [])
    model = model_class.from_pretrained(ORIGINAL / f"{name}.pth", config=ATTENTION_HEADS)
    other = model_class(model.config, **({"momentum": True} if name == "retrieval" else {}))
    other.load_weights(tmp_path / "keras" / "model.weights.h5")
    assert {"temp", "image_queue", "vision_proj_m.weight"} < {row.name for row in other.table()}
    for row in model.table():
        assert np.array_equal(*(of.get_parameter(row.name).numpy() for of in (model, other))), row.name
    other.save_weights(tmp_path / "keras" / "model.weights.h5")
    convert(tmp_path / "keras", tmp_path / "back.pth")
    assert differences(ORIGINAL / f"{name}.pth", tmp_path / "back.pth") == []


@pytest.mark.parametrize("package", ["blip_pt", "blip_tf"])
@pytest.mark.parametrize("name", ["caption", "retrieval"])
def test_a_converted_original_loads_as_the_original_itself(tmp_path, package, name):
    """What the original's files give in each framework is held against its numbers in the tests of the models."""
    kind = getattr(importlib.import_module(package), ("TF" if package == "blip_tf" else "") + HEADS_OF[name])
    convert(ORIGINAL / f"{name}.pth", tmp_path / "new", config=ATTENTION_HEADS)
    first, second = (
        kind.from_pretrained(ORIGINAL / f"{name}.pth", config=ATTENTION_HEADS),
        kind.from_pretrained(tmp_path / "new"),
    )
    assert first.config.to_dict().items() <= second.config.to_dict().items()
    for row in first.table():
        one, other = (numpy(getattr(model, "get_tensor", model.get_parameter)(row.name)) for model in (first, second))
        assert np.array_equal(one, other), row.name


def test_weights_come_back_out_of_a_saved_model(tmp_path):
    head = "BlipForImageTextRetrieval"
    random_checkpoint(tmp_path / "model", head)
    convert(tmp_path / "model", tmp_path / "export", to="savedmodel")
    report = convert(tmp_path / "export", tmp_path / "new")
    assert (report.source_format, report.head) == ("savedmodel", head)
    assert differences(tmp_path / "new", tmp_path / "model") == []
