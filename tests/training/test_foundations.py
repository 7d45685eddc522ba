"""Pre-training begins with an ImageNet ViT and a BERT of any language: whose tensors these are, and what is refused."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from blip_core.cli import main
from blip_core.config import BlipConfig
from blip_core.parameters.position_embeddings import resize_positions
from blip_core.training import Settings, train
from blip_core.training.start import find_start
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED, require
from tests.helpers.lazy_frameworks import torch
from tests.helpers.small_foundations import PATCH, SIDE, WIDTH, WORDS, bert, hugging_face_vit, timm_vit, write_folder
from tests.helpers.training_runs import QUICK, make_world, weights

SIZE = SIDE * PATCH
SETTINGS = Settings(image_size=SIZE, queue_size=8)
BERT = {"model_type": "bert", "num_attention_heads": 2, "layer_norm_eps": 1e-7, "hidden_dropout_prob": 0.2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("foundations")
    vit = timm_vit()
    write_folder(root / "timm", vit, {"architecture": "vit_tiny"})
    write_folder(
        root / "hf", hugging_face_vit(vit), {"model_type": "vit", "num_attention_heads": 3, "layer_norm_eps": 1e-12}
    )
    write_folder(root / "bert", bert(), BERT, WORDS)
    return root


def model_of(framework, start, settings=SETTINGS):
    """The tensors that a run begins with."""
    require(framework)
    model = importlib.import_module(f"blip_{framework}.trainer").make_model(start, settings)
    read = importlib.import_module(f"blip_{framework}.base").to_numpy
    if framework == "tf":
        return {row.name: row.from_tensorflow(read(model.get_parameter(row.name))) for row in model.table()}
    return {row.name: read(model.get_tensor(row.name)) for row in model.table()}


@pytest.mark.parametrize(
    ("framework", "vision"),
    [("pt", "timm"), ("tf", "timm"), ("pt", "hf"), pytest.param("tf", "hf", marks=pytest.mark.slow)],
)
def test_a_model_of_pre_training_begins_with_exactly_their_tensors(files, framework, vision):
    start = find_start("pretrain", None, None, SETTINGS, vision=files / vision, text=files / "bert")
    found = model_of(framework, start)
    vit, text = timm_vit(), bert()
    same = {
        "embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding.weight": "patch_embed.proj.weight", "post_layernorm.bias": "norm.bias",
        "encoder.layers.1.self_attn.qkv.weight": "blocks.1.attn.qkv.weight",
        "encoder.layers.0.self_attn.qkv.bias": "blocks.0.attn.qkv.bias",
        "encoder.layers.1.self_attn.projection.weight": "blocks.1.attn.proj.weight",
        "encoder.layers.1.layer_norm1.weight": "blocks.1.norm1.weight",
        "encoder.layers.0.layer_norm2.bias": "blocks.0.norm2.bias",
        "encoder.layers.0.mlp.fc1.weight": "blocks.0.mlp.fc1.weight",
        "encoder.layers.1.mlp.fc2.weight": "blocks.1.mlp.fc2.weight",
    }  # fmt: skip
    for name, theirs in same.items():
        for prefix in ("vision_model.", "vision_model_m."):
            assert np.array_equal(found[prefix + name], vit[theirs]), name
    for name, value in text.items():
        if "token_type" in name or "pooler" in name or "seq_relationship" in name or "decoder.weight" in name:
            continue
        theirs = name.replace("gamma", "weight").replace("beta", "bias")
        own = [f"text_decoder.{theirs}"]
        if name.startswith("bert."):
            own = [theirs.replace("bert.", "text_encoder."), theirs.replace("bert.", "text_encoder_m.")]
            own += [f"text_decoder.{theirs}"] * (".attention." in name)
        for place in own:
            assert np.array_equal(found[place][: len(value)], value), place
    assert found["text_encoder.embeddings.word_embeddings.weight"].shape[0] == len(WORDS) + 2
    assert not found["text_decoder.cls.predictions.bias"][len(WORDS) :].any()
    config = start.found
    assert (config.text_config.bos_token_id, config.enc_token_id) == (len(WORDS), len(WORDS) + 1)
    assert (config.text_config.sep_token_id, config.text_config.pad_token_id) == (3, 0)
    assert (config.text_config.layer_norm_eps, config.text_config.hidden_dropout_prob) == (1e-7, 0.2)
    vision_config = config.vision_config
    expected = (1, 1e-6) if vision == "timm" else (3, 1e-12)
    assert (vision_config.num_attention_heads, vision_config.layer_norm_eps) == expected
    assert start.processor.tokenizer.decode(start.processor.tokenizer("ein rotes Quadrat")["input_ids"][1:-1]) == (
        "ein rotes quadrat"
    )


def test_what_is_new_is_the_same_in_both_frameworks(files):
    start = find_start("pretrain", None, None, SETTINGS, vision=files / "hf", text=files / "bert")
    one, other = (model_of(framework, start) for framework in FRAMEWORKS)
    assert all(np.array_equal(value, other[name]) for name, value in one.items())
    assert one["text_encoder.encoder.layer.0.crossattention.self.query.weight"].std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("task", ["caption", "vqa", "nlvr", "retrieval"])
def test_every_head_can_begin_so(files, task):
    start = find_start(task, None, None, SETTINGS, vision=files / "timm", text=files / "bert")
    found = model_of(INSTALLED[0], start)
    key = "encoder.layer.2.attention.self.key.weight"
    places = [name for name in found if name.endswith(key) and "cross" not in name]
    assert places
    assert all(np.array_equal(found[name], bert()[f"bert.{key}"]) for name in places)


def test_files_of_torch_and_other_sizes_of_pictures(files, tmp_path):
    """And a distilled ViT: its second token is left out, as BLIP has none."""
    vit = timm_vit()
    distilled = {**vit, "pos_embed": np.insert(vit["pos_embed"], 1, 7.0, axis=1), "dist_token": vit["cls_token"]}
    for number, tensors in enumerate((vit, distilled)):
        state = {name: torch.from_numpy(value) for name, value in tensors.items()}
        torch.save({"model": state}, tmp_path / f"{number}.pth")
        settings = Settings(image_size=2 * SIZE, queue_size=8)
        start = find_start("pretrain", None, None, settings, vision=tmp_path / f"{number}.pth", text=files / "bert")
        found = model_of(INSTALLED[0], start, settings)["vision_model.embeddings.position_embedding"]
        assert found.shape == (1, 4 * SIDE**2 + 1, WIDTH)
        assert np.array_equal(found, resize_positions(vit["pos_embed"], 4 * SIDE**2 + 1))


def test_a_chosen_configuration_has_the_last_word(files, tmp_path):
    start = find_start("pretrain", None, None, SETTINGS, vision=files / "timm", text=files / "bert")
    start.found.vision_config.layer_norm_eps = 1e-4
    start.found.save_pretrained(tmp_path)
    start.processor.tokenizer.save_pretrained(tmp_path)
    one = tmp_path / "config.json"
    again = find_start("pretrain", one, None, SETTINGS, vision=files / "timm", text=files / "bert")
    assert again.found.vision_config.layer_norm_eps == 1e-4
    alone = find_start("pretrain", one, None, SETTINGS, vision=files / "timm")
    assert [found.naming.kind for found in alone.foundations] == ["ViT"]


@pytest.mark.parametrize("framework", ["pt", pytest.param("tf", marks=pytest.mark.slow)])
def test_a_run_from_the_command_line(files, tmp_path, framework, capsys):
    require(framework)
    world = make_world(tmp_path)
    words = ["train", "pretrain", "--data", str(world / "pairs.json"), "--output", str(tmp_path / "run")]
    words += ["--vision", str(files / "timm"), "--text", str(files / "bert"), "--engine", framework]
    more = {**QUICK, "image_size": SIZE, "queue_size": 8, "max_steps": 1, "learning_rate": 1e-7}
    words += ["--recipe", "pretrain", *(word for k, v in more.items() for word in ("--set", f"{k}={str(v).lower()}"))]
    words += ["--set", "min_learning_rate=0", "--set", "weight_decay=0"]
    assert main(words) == 0
    found = weights(tmp_path / "run")
    assert np.allclose(
        found["vision_model.encoder.layers.0.mlp.fc1.weight"], timm_vit()["blocks.0.mlp.fc1.weight"], atol=1e-6
    )
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    assert main([*words[:6], *words[8:], "--resume"]) == 1
    assert "holds another run: vision was" in capsys.readouterr().err


def _strange(files, tmp_path, change):
    """Write a foundation that is not what it should be; returns the keywords of `find_start`."""
    given = {"vision": files / "timm", "text": files / "bert", "model": None, "tokenizer": None}
    vit, text = timm_vit(), bert()
    if change == "patch":
        given["vision"] = write_folder(tmp_path / "x", timm_vit(patch=32), {})
    elif change == "bert as vit":
        given["vision"] = files / "bert"
    elif change == "vit as bert":
        given["text"] = files / "hf"
    elif change == "layer scale":
        given["vision"] = write_folder(tmp_path / "x", {**vit, "blocks.0.ls1.gamma": vit["norm.weight"]}, {})
    elif change == "half a vit":
        del vit["blocks.1.mlp.fc2.bias"]
        given["vision"] = write_folder(tmp_path / "x", vit, {})
    elif change == "misshapen":
        vit["norm.bias"] = vit["norm.bias"][1:]
        given["vision"] = write_folder(tmp_path / "x", vit, {})
    elif change == "integers":
        given["vision"] = write_folder(tmp_path / "x", {**vit, "norm.bias": vit["norm.bias"].astype(np.int32)}, {})
    elif change == "roberta":
        given["text"] = write_folder(tmp_path / "x", text, {"model_type": "roberta"}, WORDS)
    elif change == "other vocabulary":
        given["text"] = write_folder(tmp_path / "x", bert(400), BERT, WORDS)
    elif change == "larger vocabulary":
        given["text"] = write_folder(tmp_path / "x", bert(10), BERT, WORDS)
    elif change == "a model that exists":
        given["model"] = files / "hf"
    elif change == "another configuration":
        BlipConfig.base(image_size=SIZE).save_pretrained(tmp_path)
        given["model"] = tmp_path / "config.json"
    elif change == "nowhere":
        given["vision"] = tmp_path / "nowhere.pth"
    return given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("patch", "x has patch_size 32, and the model 16; choose another ViT, or name a configuration with patch"),
        ("bert as vit", r"bert holds no ViT with the names of timm or Hugging Face \(it has bert.embeddings"),
        ("vit as bert", "hf holds no BERT with the names of"),
        ("layer scale", "another kind of ViT than BLIP's: it has blocks.0.ls1.weight"),
        ("half a vit", "x lacks blocks.1.mlp.fc2.bias; give a whole ViT"),
        ("misshapen", r"norm.bias is \[11\] instead of \[12\]"),
        ("integers", "norm.bias is of type int32; weights must be floating-point"),
        ("roberta", "describes a model of type 'roberta', and not a BERT"),
        ("other vocabulary", "The vocabulary of .*x has 16 tokens, and .*x has embeddings of 400; name the folder"),
        ("larger vocabulary", "The vocabulary of .*x has 16 tokens, and .*x has embeddings of 10"),
        ("a model that exists", "A ViT and a BERT begin a new model, and .*hf is one that exists; leave it out, or"),
        ("another configuration", "timm has hidden_size 12, and the model 768; choose another ViT"),
        ("nowhere", "nowhere.pth"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_a_sentence(files, tmp_path, change, message):
    given = _strange(files, tmp_path, change)
    with pytest.raises((ValueError, OSError), match=message) as error:
        find_start("pretrain", given.pop("model"), given.pop("tokenizer"), SETTINGS, **given)
    assert "\n" not in str(error.value)


def test_a_bert_without_its_language_model_is_said(files, tmp_path):
    text = {name.removeprefix("bert."): value for name, value in bert().items() if name.startswith("bert.")}
    folder = write_folder(tmp_path / "x", text, BERT, WORDS)
    with pytest.warns(UserWarning, match="has no language-modelling head: it begins at random"):
        start = find_start("caption", None, None, SETTINGS, vision=files / "timm", text=folder)
    found = model_of(INSTALLED[0], start)
    name = "embeddings.word_embeddings.weight"
    assert np.array_equal(found[f"text_decoder.bert.{name}"][: len(WORDS)], text[name])


def test_a_call_without_a_model_takes_their_sizes(files, tmp_path):
    world = make_world(tmp_path)
    more = {**QUICK, "image_size": SIZE, "queue_size": 8, "max_steps": 1, "engine": INSTALLED[0], "recipe": "pretrain"}
    run = train(
        "pretrain", world / "pairs.json", None, tmp_path / "run", vision=files / "hf", text=files / "bert", **more
    )
    assert BlipConfig.from_pretrained(run.output).vision_config.hidden_size == WIDTH
