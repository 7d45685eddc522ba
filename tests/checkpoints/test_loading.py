"""Reading and writing checkpoints: every form, what is damaged, what is hostile, what is interrupted."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from blip_core import BlipConfig, hub
from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.saving import parse_size
from blip_pt import (
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForPreTraining,
    BlipForQuestionAnswering,
    BlipVisionModel,
)
from tests.helpers.random_models import CONFIGS_OF, randomized

CONFIG = CONFIGS_OF["wide"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomized(BlipForConditionalGeneration(CONFIG))


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def same(first, second) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return BlipForConditionalGeneration.from_pretrained(path, **options)


# every form ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_the_same(model, folder):
    assert same(load(folder), model)
    assert same(load(folder / "model.safetensors"), model)
    values = json.loads((folder / "config.json").read_text())
    assert values["architectures"] == ["BlipForConditionalGeneration"]
    assert values["dtype"] == "float32"


def test_shards_are_written_and_read(model, folder):
    model.save_pretrained(folder, max_shard_size="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert index["metadata"]["total_size"] == 4 * model.num_parameters()
    assert not (folder / "model.safetensors").exists()
    assert all(os.path.getsize(folder / name) < 20_000 + 10_000 for name in shards[1:])
    assert same(load(folder), model)
    model.save_pretrained(folder)
    assert not list(folder.glob("model-*"))
    assert same(load(folder), model)


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(model, folder):
    path = folder / "model.safetensors"
    head, body = header(path)
    text = json.dumps(head).encode()
    length = next(n for n in range(len(text), len(text) + 2**16) if n % 2**16 == 0x0280)  # the bytes 80 02 of a pickle
    path.write_bytes(struct.pack("<Q", length) + text.ljust(length) + body)
    assert path.read_bytes()[:2] == pickle.dumps(0, protocol=2)[:2]
    assert same(load(folder), model)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_loads_the_same(model, folder, zipped):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert same(load(folder), model)


def test_pytorch_shards_load_the_same(model, folder):
    tensors = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    halves = {f"pytorch_model-0000{i + 1}-of-00002.bin": dict(tensors[i::2]) for i in range(2)}
    for name, half in halves.items():
        torch.save(half, folder / name)
    weight_map = {tensor: name for name, half in halves.items() for tensor in half}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(load(folder), model)


def test_names_of_tied_weights_in_the_metadata(model, folder):
    """As `save_model` of safetensors writes them; a name that is no tensor's is no weight."""
    save_model(model, folder / "model.safetensors", metadata={"format": "pt", "other": "nothing"})
    found = open_checkpoint(folder)
    tied = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight"}
    assert tied <= found.keys()
    assert "other" not in found
    assert same(load(folder), model)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_a_file_stores_once_are_copied_for_two_modules(tmp_path):
    """Those of encoder and decoder of pre-training: trained apart, they must not share memory."""
    BlipForPreTraining(CONFIG).save_pretrained(tmp_path, safe_serialization=False)
    answerer = BlipForQuestionAnswering.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    places = [weight.data_ptr() for weight in answerer.parameters()]
    assert len(places) == len(set(places))


def test_tied_and_buffer_tensors_are_passed_over(model, folder):
    tensors = load_file(folder / "model.safetensors")
    words = tensors["text_decoder.bert.embeddings.word_embeddings.weight"]
    tensors["text_decoder.cls.predictions.decoder.weight"] = words.clone()
    tensors["text_decoder.cls.predictions.decoder.bias"] = tensors["text_decoder.cls.predictions.bias"].clone()
    tensors["text_decoder.bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(tensors, folder / "model.safetensors")
    assert same(load(folder), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept_or_changed_on_demand(model, folder, dtype):
    model.__class__.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    assert load(folder).dtype == torch.float32
    stored = load(folder, dtype="auto")
    assert stored.dtype == dtype
    expected = model.text_decoder.bert.embeddings.word_embeddings.weight.to(dtype)
    assert torch.equal(stored.text_decoder.bert.embeddings.word_embeddings.weight, expected)
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_integer_weights_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_model.post_layernorm.weight"] = torch.ones(24, dtype=torch.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"post_layernorm\.weight is of type int32; weights must be floating-point"):
        load(folder)


def test_parts_of_another_head_are_taken_and_the_rest_is_new(model, folder):
    with pytest.warns(UserWarning, match="initialised at random for BlipForImageTextRetrieval") as caught:
        other = BlipForImageTextRetrieval.from_pretrained(folder)
    assert len(caught) == 1
    assert torch.equal(
        other.vision_model.embeddings.patch_embedding.weight, model.vision_model.embeddings.patch_embedding.weight
    )
    assert same(BlipVisionModel.from_pretrained(folder), model.vision_model)


@pytest.mark.parametrize(
    ("stored", "kind"),
    [(BlipForQuestionAnswering, BlipForConditionalGeneration), (BlipForPreTraining, BlipForQuestionAnswering)],
)
def test_weights_that_fit_but_are_of_another_head_are_told(tmp_path, stored, kind):
    config = copy.deepcopy(CONFIG)
    config.vision_config.num_attention_heads = 4  # of the width of the text model, as in published models
    config.text_config.encoder_hidden_size = config.vision_config.hidden_size = config.text_config.hidden_size
    stored(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=f"holds a {stored.__name__}, whose weights fit {kind.__name__}"):
        kind.from_pretrained(tmp_path)


def test_a_head_that_is_cut_out_is_no_other(tmp_path, recwarn):
    BlipForPreTraining(CONFIGS_OF["wide"]).save_pretrained(tmp_path)
    BlipForConditionalGeneration.from_pretrained(tmp_path)
    assert not recwarn


def test_another_image_size_resizes_the_positions(model, folder):
    larger = load(folder, image_size=48)
    assert larger.config.vision_config.image_size == 48
    old, new = model.vision_model.embeddings.position_embedding, larger.vision_model.embeddings.position_embedding
    assert new.shape == (1, 37, 24)
    assert torch.equal(new[:, 0], old[:, 0])
    patches = old[:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(patches, (6, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(new[:, 1:], resized.permute(0, 2, 3, 1).reshape(1, 36, 24), atol=1e-6, rtol=1e-5)


def test_a_configuration_may_be_overridden(folder):
    config = {"text_config": {"num_attention_heads": 4}, "vision_config": {"layer_norm_eps": 1e-3}}
    changed = load(folder, config=config)
    assert changed.config.text_config.num_attention_heads == 4
    assert changed.vision_model.post_layernorm.eps == 1e-3
    with pytest.raises(ValueError, match="num_attention_heads must divide"):
        load(folder, config={"text_config": {"num_attention_heads": 5}})


# damaged and hostile ------------------------------------------------------------------------------------------------


def header(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, head: dict, body: bytes) -> None:
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    head, body = header(path)
    name = "vision_model.post_layernorm.weight"
    if how == "truncated":
        path.write_bytes(content[:-1000])
    elif how == "truncated in its header":
        path.write_bytes(content[:100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "claims a huge header":
        path.write_bytes(struct.pack("<Q", 2**62) + content[8:])
    elif how == "claims a huge tensor":
        head[name]["shape"] = [2**40]
        write(path, head, body)
    elif how == "overlapping":
        head[name]["data_offsets"] = [0, 96]
        write(path, head, body)
    elif how == "of a strange type":
        head[name]["dtype"] = "F8_E4M3"
        head[name]["shape"] = [96]
        write(path, head, body)
    else:
        path.write_bytes(b"hello, this is no model at all")


@pytest.mark.parametrize(
    "how",
    [
        "truncated", "truncated in its header", "empty", "claims a huge header", "claims a huge tensor",
        "overlapping", "of a strange type", "text",
    ],
)  # fmt: skip
def test_a_damaged_safetensors_file_is_named(folder, how):
    damage(folder / "model.safetensors", how)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(folder)


def test_a_damaged_index_is_named(folder, model):
    model.save_pretrained(folder, max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    for shard in ("../elsewhere.safetensors", "/etc/passwd", "missing.safetensors"):
        weight_map = {**values["weight_map"], "vision_model.post_layernorm.weight": shard}
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match="not a file of its folder"):
            load(folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(ValueError, match="'weight_map'"):
        load(folder)
    index.write_text(
        json.dumps({"weight_map": {**values["weight_map"], "extra": next(iter(values["weight_map"].values()))}})
    )
    with pytest.raises(ValueError, match="shards do not hold: extra"):
        load(folder)


class Hostile:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(folder, tmp_path, zipped):
    (folder / "model.safetensors").unlink()
    content = {"vision_model.post_layernorm.weight": Hostile(tmp_path / "run")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds more than tensors"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [10, 2000, -200])
def test_a_truncated_pytorch_file_is_named(folder, keep):
    torch.save(load_file(folder / "model.safetensors"), folder / "cut.pth")
    (folder / "cut.pth").write_bytes((folder / "cut.pth").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.pth"):
        load(folder / "cut.pth")


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"a": "text"}, torch.ones(3), {3: torch.ones(2)}])
def test_a_pytorch_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        load(tmp_path / "other.pth")


def test_a_checkpoint_of_another_model_is_refused(folder):
    save_file({"bert.encoder.layer.0.attention.self.query.weight": torch.ones(4, 4)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="must be of another model"):
        load(folder)


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(OSError, match=r"expected model\.safetensors, model\.int8\.safetensors, pytorch_model"):
        load(tmp_path)


def test_a_missing_configuration_is_named(folder):
    (folder / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        load(folder)
    assert load(folder, config=CONFIG).config == CONFIG


def test_a_folder_of_a_trainer_without_weights_is_told(model, folder, tmp_path):
    checkpoint = tmp_path / "checkpoint-20"
    checkpoint.mkdir()
    for name in ("optimizer.pt", "rng_state.pth", "rng_state_1.pth"):
        torch.save({"state": {}, "random": np.random.default_rng(0).bytes(3)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text("{}")
    state = "optimizer.pt, rng_state.pth, rng_state_1.pth, trainer_state.json"
    with pytest.raises(FileNotFoundError, match=rf"checkpoint-20 holds the state of a trainer \({state}\) and no weig"):
        BlipForConditionalGeneration.from_pretrained(checkpoint)
    torch.save(model.state_dict(), checkpoint / "model.pth")
    (checkpoint / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = BlipForConditionalGeneration.from_pretrained(checkpoint)
    assert torch.equal(
        again.get_parameter("vision_model.post_layernorm.weight"), model.vision_model.post_layernorm.weight
    )


def test_a_folder_of_a_trainer_takes_the_configuration_from_the_folder_above(model, folder):
    checkpoint = folder / "checkpoint-20"
    checkpoint.mkdir()
    (folder / "model.safetensors").rename(checkpoint / "model.safetensors")
    model.generation_config.updated(num_beams=2).save_pretrained(folder)
    loaded = load(checkpoint)
    assert same(loaded, model)
    assert loaded.config.text_config == model.config.text_config
    assert loaded.generation_config.num_beams == 2
    checkpoint.rename(folder / "other")
    with pytest.raises(OSError, match=r"config\.json"):
        load(folder / "other")


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (48, 12)])
def test_a_configuration_is_read_off_published_tensors_with_a_warning(folder, width, heads):
    text = {"hidden_size": 24, "num_attention_heads": 12, "num_hidden_layers": 2, "intermediate_size": 20}
    vision = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": 3, "intermediate_size": 40}
    config = BlipConfig.from_dict(
        {
            "text_config": {**text, "max_position_embeddings": 30, "vocab_size": 60, "bos_token_id": 58},
            "vision_config": {**vision, "image_size": 32, "patch_size": 8},
        }
    )
    model = randomized(BlipForConditionalGeneration(config))
    model.save_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.warns(
        UserWarning, match=rf"no config.json: sizes are read off.* {heads} heads and LayerNorm eps 1e-05"
    ):
        loaded = BlipForConditionalGeneration.from_pretrained(folder)
    assert same(loaded, model)
    for part, sizes in (("text_config", text), ("vision_config", vision)):
        found = getattr(loaded.config, part).to_dict()
        assert sizes.items() <= found.items()
    assert loaded.config.vision_config.image_size == 32
    assert (loaded.config.text_config.label_smoothing, loaded.config.text_config.hidden_dropout_prob) == (0, 0)
    with pytest.raises(OSError, match=r"config\.json"):
        BlipForImageTextRetrieval.from_pretrained(
            save_part(folder, "vision_model.encoder.layers.0.mlp.fc1.weight"),
        )


def save_part(folder: Path, name: str) -> Path:
    """The folder with its weights, but for one tensor."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    return folder


# writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_an_interrupted_save_leaves_the_earlier_model_whole(model, folder, monkeypatch, size):
    model.save_pretrained(folder, max_shard_size=size)
    other = randomized(BlipForConditionalGeneration(CONFIG))
    files = {path.name for path in folder.iterdir()}
    count = 0
    replace = os.replace

    def fail(*_):
        raise KeyboardInterrupt

    for stop in range(len(files) - 1):
        count = 0

        def interrupted(source, target, stop=stop):
            nonlocal count
            if count == stop:
                fail()
            count += 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(folder, max_shard_size=size)
        monkeypatch.setattr(os, "replace", replace)
        loaded = load(folder)
        assert same(loaded, model) or same(loaded, other)
        assert not list(folder.glob("*.tmp"))
        if size == "5GB" and stop == 0:
            assert same(loaded, model)
        model.save_pretrained(folder, max_shard_size=size)


def test_saving_over_a_file_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="is a file"):
        model.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_sizes_of_shards():
    sizes = {"5GB": 5 * 10**9, "200 MB": 2 * 10**8, "1GiB": 2**30, 7: 7, "1.5kb": 1500}
    assert {size: parse_size(size) for size in sizes} == sizes
    for wrong in ("much", "5 parsecs", "0", -3):
        with pytest.raises(ValueError, match="max_shard_size"):
            parse_size(wrong)


# the Hub ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_hub(folder, monkeypatch):
    """A Hub of one repository, which notes what is asked of it."""
    asked = []

    def snapshot_download(name, revision=None, allow_patterns=(), token=None):
        asked.append((name, revision, allow_patterns))
        if name != "somebody/blip":
            raise RuntimeError("404: no such repository\nRequest ID: 1")
        return str(folder)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_model_comes_from_the_hub_and_safetensors_first(model, folder, fake_hub):
    assert same(load("somebody/blip", revision="v1"), model)
    assert "adapter_model.safetensors" in fake_hub[0][2]
    name, revision, patterns = fake_hub[1]
    assert (name, revision) == ("somebody/blip", "v1")
    assert "model.safetensors" in patterns
    assert not any("pytorch_model" in pattern for _, _, patterns in fake_hub for pattern in patterns)


def test_what_the_hub_lacks_is_one_sentence(fake_hub):
    with pytest.raises(OSError, match=r"'somebody/else' is no local path.*404: no such repository Check") as error:
        load("somebody/else")
    assert "Request ID" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("RepositoryNotFoundError", "does not exist on the Hugging Face Hub; check the spelling"),
        ("GatedRepoError", "is for those who accepted its conditions"),
        ("RevisionNotFoundError", "has no such branch, tag or commit"),
        (
            "LocalEntryNotFoundError",
            "is not in the cache, and the Hugging Face Hub cannot be reached; check the network",
        ),
        ("OfflineModeIsEnabled", "is not in the cache, and HF_HUB_OFFLINE forbids"),
    ],
)
def test_a_typo_and_a_dead_network_are_told_apart(monkeypatch, kind, said):
    """By the errors of the Hub's library, of which some are subclasses of others."""
    errors = pytest.importorskip("huggingface_hub.errors")

    def snapshot_download(name, **options):
        raise getattr(errors, kind).__new__(getattr(errors, kind))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        OSError, match=rf"'somebody/else@v1' is no local path and {said}.* Or pass the path of a folder"
    ):
        hub.resolve_folder("somebody/else", revision="v1", patterns=[])


def test_a_mistyped_folder_is_told_the_nearest(monkeypatch, tmp_path):
    def snapshot_download(name, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-captioner").mkdir()
    with pytest.raises(OSError, match=r"'my-captoner' is no local path and .* Is 'my-captioner' meant\?"):
        hub.resolve_folder("my-captoner", patterns=[])


def test_a_path_that_is_none_is_not_asked_of_the_hub(fake_hub, tmp_path):
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        with pytest.raises(OSError, match="no file or folder"):
            hub.resolve_folder(name, patterns=[])
    assert not fake_hub


# what the arrays are ------------------------------------------------------------------------------------------------


def test_tensors_lie_in_the_mapped_file_and_writing_changes_memory_alone(folder):
    path = folder / "model.safetensors"
    before = path.read_bytes()
    checkpoint = open_checkpoint(folder)
    array = checkpoint["vision_model.post_layernorm.weight"]
    assert not array.flags.owndata
    array[:] = 0
    assert path.read_bytes() == before
    model = load(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before
    assert np.dtype("float32") == checkpoint.dtypes["vision_model.post_layernorm.weight"]
