"""The keywords of `from_pretrained`, `save_pretrained` and `push_to_hub`, which programs for transformers give."""

from __future__ import annotations

import json
import sys
import types
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTokenizer, GenerationConfig
from blip_core.hub.keywords import KEYWORDS, rows_of
from tests.helpers.random_models import CONFIGS_OF

HEAD = "BlipForConditionalGeneration"
PACKAGES = ("blip_pt", "blip_tf")


def kind(package: str):
    return getattr(pytest.importorskip(package), "TF" * (package == "blip_tf") + HEAD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its processor, written by whichever framework is installed."""
    folder = tmp_path_factory.mktemp("model") / "model"
    package = next((package for package in PACKAGES if is_there(package)), "blip_pt")  # which skips where none is
    kind(package)(CONFIGS_OF["wide"]).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size=32)).save_pretrained(folder)
    return folder


def is_there(package: str) -> bool:
    from blip_core.engines import ENGINES

    return next(engine for engine in ENGINES.values() if engine.module == package).installed


def type_of(model) -> str:
    return str(getattr(model, "dtype", None) or model.weights[0].dtype).removeprefix("torch.")


def weight(model, name: str = "text_decoder.cls.predictions.bias") -> np.ndarray:
    value = model.get_parameter(name)
    return value.detach().numpy() if hasattr(value, "detach") else value.numpy()


WITHOUT_EFFECT = {
    "low_cpu_mem_usage": True, "trust_remote_code": True, "weights_only": True, "offload_folder": "x", "token": None,
    "cache_dir": "cache", "local_files_only": True, "force_download": False, "proxies": None, "revision": "main",
    "use_safetensors": True, "attn_implementation": "eager", "from_pt": True, "from_tf": False, "resume_download": None,
    "quantization_config": None, "load_in_8bit": False, "variant": None, "use_auth_token": True, "max_memory": {0: "1"},
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_is_loaded_with_all_keywords(folder, package):
    model, found = kind(package).from_pretrained(
        pretrained_model_name_or_path=str(folder), device_map={"": "cpu"}, output_loading_info=True, **WITHOUT_EFFECT
    )
    assert found == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    assert "cpu" in str(model.device).lower()
    assert model.name_or_path == str(folder)


@pytest.mark.parametrize("package", PACKAGES)
def test_types_devices_and_settings(folder, package):
    load = kind(package).from_pretrained
    for options in ({"torch_dtype": "bfloat16"}, {"dtype": "bfloat16", "device_map": "auto"}):
        assert "bfloat16" in str(weight_type(load(folder, **options)))
    model = load(folder, projection_dim=7, text_config={"label_smoothing": 0.25}, output_attentions=True)
    config = model.config
    assert (config.projection_dim, config.text_config.label_smoothing, config.output_attentions) == (7, 0.25, True)
    assert config.text_config.hidden_size == 32
    with pytest.raises(ValueError, match=r"dtype and torch_dtype are the same keyword here; give one"):
        load(folder, dtype="float32", torch_dtype="float32")
    assert load(folder, generation_config=GenerationConfig(num_beams=4)).generation_config.num_beams == 4


def weight_type(model) -> str:
    return str(model.get_parameter("text_decoder.cls.predictions.bias").dtype)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_cannot_be_is_said_in_one_sentence(folder, package):
    load = kind(package).from_pretrained
    for options, error, said in (
        ({"device_map": {"vision_model": 0, "text_decoder": 1}}, ValueError, "spreads the model over 0, 1.*name one"),
        ({"device_map": "disk"}, ValueError, "a device that computes"),
        ({"load_in_8bit": True}, ValueError, r"load_in_8bit .*call model.quantize\(\)"),
        ({"quantization_config": {"bits": 4}}, ValueError, r"quantization_config .*model.quantize\(\)"),
        ({"from_flax": True}, ValueError, "weights of Flax"),
        ({"tp_plan": "auto"}, ValueError, "divides a model over devices"),
        (
            {"attn_implementation": "flash_attention_2"},
            ValueError,
            "attn_implementation must be one of None, eager, sdpa",
        ),
        ({"subfolder": "../model"}, ValueError, "subfolder must be a folder inside"),
        ({"subfolder": "nowhere"}, OSError, "has no folder 'nowhere'"),
        ({"variant": "../x"}, ValueError, "variant must be None or a word"),
        ({"use_safetensors": False}, OSError, "holds no weights: expected pytorch_model.bin"),
        ({"from_tf": True}, OSError, "holds no weights: expected tf_model.h5"),
        ({"torch_dtpe": "auto"}, TypeError, "'torch_dtpe' is no keyword of from_pretrained; there is torch_dtype"),
        ({"projecton_dim": 7}, TypeError, "there is projection_dim"),
        ({"projection_dim": 0}, ValueError, "projection_dim must be a whole number"),
        ({"base_model": folder}, ValueError, "goes with an adapter"),
        ({"text_config": {"vocab_size": 95}}, ValueError, r"misshapen: .*\[90\] instead of \[95\]"),
    ):
        with pytest.raises(error, match=said) as raised:
            load(folder, **options)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("package", PACKAGES)
def test_tensors_of_another_shape_are_drawn_anew_if_asked(folder, package):
    with pytest.warns(UserWarning, match="predictions.bias of another shape: initialised at random"):
        model, found = kind(package).from_pretrained(
            folder, text_config={"vocab_size": 95}, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert weight(model).shape == (95,)
    assert ("text_decoder.cls.predictions.bias", (90,), (95,)) in found["mismatched_keys"]
    assert not found["missing_keys"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_state_dict_takes_the_place_of_the_file(folder, package):
    cls = kind(package)
    arrays = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    if package == "blip_pt":
        import torch

        state = {f"module.{name}": torch.from_numpy(value) for name, value in arrays.items()}
    else:
        import tensorflow as tf

        state = {name: tf.Variable(value) for name, value in arrays.items()}
    for model in (
        cls.from_pretrained(folder, state_dict=state),
        cls.from_pretrained(config=CONFIGS_OF["wide"], state_dict=state),
    ):
        assert np.array_equal(weight(model), arrays["text_decoder.cls.predictions.bias"])
    assert model.name_or_path == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_constructor_of_its_own_gets_its_arguments(folder, package):
    base = kind(package)

    class Mine(base):
        def __init__(self, config, size=1, **options):
            super().__init__(config, **options)
            self.size = size

    Mine.__name__ = base.__name__
    assert Mine.from_pretrained(folder, size=5).size == 5


@pytest.mark.parametrize("package", PACKAGES)
def test_saving_takes_the_keywords(folder, tmp_path, package):
    model = kind(package).from_pretrained(folder)
    older = {"blip_pt": "pytorch_model", "blip_tf": "tf_model"}[package]
    model.save_pretrained(tmp_path / "old", safe_serialization=False)
    assert [path.stem for path in (tmp_path / "old").glob(f"{older}.*")] == [older]
    assert not (tmp_path / "old" / "model.safetensors").exists()
    model.save_pretrained(tmp_path / "fp16", variant="fp16", max_shard_size="40KB")
    assert (tmp_path / "fp16" / "model.safetensors.index.fp16.json").is_file()
    assert list((tmp_path / "fp16").glob("model.fp16-00001-of-*.safetensors"))
    for again in (
        kind(package).from_pretrained(tmp_path / "old"),
        kind(package).from_pretrained(tmp_path / "fp16", variant="fp16"),
    ):
        assert np.array_equal(weight(again), weight(model))
    with pytest.raises(OSError, match=r"holds no weights: expected model\.safetensors"):
        kind(package).from_pretrained(tmp_path / "fp16")
    model.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(TypeError, match="'safe_serialisation' is no keyword of save_pretrained; there is safe_serial"):
        model.save_pretrained(tmp_path / "none", safe_serialisation=False)
    assert not (tmp_path / "none").exists()


def test_the_state_dict_and_function_of_accelerate(folder, tmp_path):
    torch = pytest.importorskip("torch")
    model = kind("blip_pt").from_pretrained(folder)
    state = {name: value + 2 for name, value in model.state_dict().items()}
    model.save_pretrained(
        tmp_path, is_main_process=True, save_function=torch.save, state_dict=state, safe_serialization=False
    )
    assert torch.load(tmp_path / "pytorch_model.bin", weights_only=True).keys() >= {"text_decoder.cls.predictions.bias"}
    again = kind("blip_pt").from_pretrained(tmp_path)
    assert np.array_equal(weight(again), weight(model) + 2)
    del state["vision_model.post_layernorm.bias"]
    with pytest.raises(ValueError, match=r"state_dict lacks vision_model\.post_layernorm\.bias"):
        model.save_pretrained(tmp_path, state_dict=state)


def test_configurations_and_processors_take_them(folder):
    shared = {"token": None, "local_files_only": True, "cache_dir": "x", "trust_remote_code": True, "revision": "main"}
    config, unused = BlipConfig.from_pretrained(folder, projection_dim=9, foo=3, return_unused_kwargs=True, **shared)
    assert (config.projection_dim, unused) == (9, {"foo": 3})
    assert BlipConfig.from_pretrained(pretrained_model_name_or_path=folder).image_text_hidden_size == 16
    made = BlipProcessor.from_pretrained(
        folder, use_fast=True, do_resize=False, size={"height": 8, "width": 9}, padding_side="left", **shared
    )
    assert not made.image_processor.do_resize
    assert made.image_processor.size == {"height": 8, "width": 9}
    assert made.tokenizer.padding_side == "left"
    assert BlipTokenizer.from_pretrained(folder, use_fast=False, model_max_length=9, **shared).model_max_length == 9
    assert BlipImageProcessor.from_pretrained(folder, use_fast=True, do_normalize=False).do_normalize is False
    for cls, wrong, near in (
        (BlipConfig, "projecton_dim", "projection_dim"),
        (BlipProcessor, "do_rsize", "do_resize"),
        (BlipProcessor, "paddingside", "padding_side"),
        (BlipTokenizer, "model_maxlength", "model_max_length"),
        (BlipImageProcessor, "image_men", "image_mean"),
    ):
        with pytest.raises(TypeError, match=f"'{wrong}' is no .*; there is {near}"):
            cls.from_pretrained(folder, **{wrong: 1})


def test_files_of_transformers_5(folder, tmp_path):
    values = json.loads((folder / "processor_config.json").read_text())
    assert values["image_processor"]["size"] == {"height": 32, "width": 32}
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    assert BlipProcessor.from_pretrained(tmp_path).image_processor.size == {"height": 32, "width": 32}
    path = tmp_path / "config.json"
    CONFIGS_OF["wide"].to_json_file(path)
    assert BlipConfig.from_json_file(path) == CONFIGS_OF["wide"]


def test_options_of_generation_in_a_text_config_count(folder, tmp_path):
    values = json.loads((folder / "config.json").read_text())
    values["text_config"] |= {"max_length": 33, "num_beams": 2, "temperature": None}
    config = BlipConfig.from_dict(values)
    assert GenerationConfig.of_model(config).length_limits(1) == (0, 33)
    derived = {"_from_model_config": True, "max_length": 20, "num_beams": 3}
    found = GenerationConfig.of_model(config, derived)
    assert (found.length_limits(1), found.num_beams) == ((0, 33), 3)
    assert GenerationConfig.of_model(CONFIGS_OF["wide"], derived).length_limits(11) == (0, 31)


class FakeHub:
    """The part of huggingface_hub that is called: it keeps what was asked, and the uploaded files."""

    def __init__(self, files=(), refuse=None):
        self.calls, self.uploaded, self.files, self.refuse = [], {}, set(files), refuse
        self.HfApi = lambda token=None: self.calls.append(("token", token)) or self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if self.refuse:
            raise self.refuse
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        return types.SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def create_branch(self, repo_id, branch, exist_ok):
        self.calls.append(("create_branch", branch))

    def file_exists(self, repo_id, name):
        return name in self.files

    def upload_folder(self, repo_id, folder_path, **options):
        self.uploaded = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        self.calls.append(("upload_folder", repo_id, options))
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}")


@pytest.fixture
def hub(monkeypatch):
    hub = FakeHub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


@pytest.mark.parametrize("package", PACKAGES)
def test_models_are_pushed_with_a_card(folder, package, hub):
    model = kind(package).from_pretrained(folder)
    model.name_or_path = "Salesforce/blip-image-captioning-base"
    done = model.push_to_hub("my-captioner", private=True, token="hf_x", commit_message="First", tags=["cats"])
    assert done.commit_url == "https://hub/me/my-captioner"
    assert {"config.json", "model.safetensors", "generation_config.json", "README.md"} <= hub.uploaded.keys()
    assert ("token", "hf_x") in hub.calls
    assert ("create_repo", "my-captioner", True, True) in hub.calls
    assert hub.calls[-1][2]["commit_message"] == "First"
    card = hub.uploaded["README.md"].decode()
    for said in (
        "base_model: Salesforce/blip-image-captioning-base", "pipeline_tag: image-to-text", "- cats",
        "captioning pictures", 'blip_pt import BlipProcessor, BlipForConditionalGeneration',
        'TFBlipForConditionalGeneration.from_pretrained("me/my-captioner")',
    ):  # fmt: skip
        assert said in card


def test_processors_and_folders_are_pushed(folder, tmp_path, hub):
    processor = BlipProcessor.from_pretrained(folder)
    processor.push_to_hub("me/x", revision="new", create_pr=True)
    assert {"preprocessor_config.json", "processor_config.json", "tokenizer.json"} <= hub.uploaded.keys()
    assert "README.md" not in hub.uploaded
    assert ("create_branch", "new") in hub.calls
    assert hub.calls[-1][2]["create_pr"] is True
    processor.save_pretrained(tmp_path / "cats", push_to_hub=True)
    assert hub.calls[-1][1] == "me/cats"
    BlipConfig().save_pretrained(tmp_path / "config", push_to_hub=True, repo_id="me/config")
    assert hub.uploaded.keys() == {"config.json"}
    processor.tokenizer.save_pretrained(tmp_path / "words", push_to_hub=True, repo_id="me/words")
    assert hub.uploaded.keys() == {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    with pytest.raises(TypeError, match="'push_to_hup' is no keyword of save_pretrained"):
        processor.tokenizer.save_pretrained(tmp_path / "words", push_to_hup=True)
    calls = len(hub.calls)
    processor.save_pretrained(tmp_path / "cats")
    assert len(hub.calls) == calls
    with pytest.raises(TypeError, match="'push_to_hup' is no keyword of save_pretrained; there is push_to_hub"):
        processor.save_pretrained(tmp_path / "cats", push_to_hup=True)


def test_a_page_that_is_there_is_kept_and_a_refusal_is_one_sentence(folder, hub):
    model = kind(next(package for package in PACKAGES if is_there(package))).from_pretrained(folder)
    hub.files = {"README.md"}
    model.push_to_hub("me/x")
    assert "README.md" not in hub.uploaded
    hub.refuse = RuntimeError("403: no write access\nRequest ID: 1")
    with pytest.raises(OSError, match="'me/x' could not be uploaded to the Hugging Face Hub: 403: no write") as error:
        model.push_to_hub("me/x")
    assert "Request ID" not in str(error.value)


def test_options_of_the_hub_reach_it(folder, monkeypatch):
    asked = []

    def snapshot_download(name, **options):
        asked.append(options)
        return str(folder.parent)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    options = {"token": "t", "cache_dir": "c", "force_download": True, "local_files_only": True, "revision": "v"}
    config = BlipConfig.from_pretrained("me/x", subfolder="model", **options)
    assert config.image_text_hidden_size == 16
    assert {name: asked[0][name] for name in options} == options
    assert all(pattern.startswith("model/") for pattern in asked[0]["allow_patterns"])
    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", lambda *a, **k: 1 / 0)
    with pytest.raises(OSError, match="could not be fetched"):
        BlipConfig.from_pretrained("me/x")
    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", lambda name, revision, allow_patterns: 1)
    with pytest.raises(ValueError, match="proxies is not taken by this version of huggingface_hub; set HTTPS_PROXY"):
        BlipConfig.from_pretrained("me/x", proxies={"https": "http://localhost"})


def test_the_table_is_whole():
    names = [(row.of, name) for row in KEYWORDS for name in (row.name, *row.also)]
    assert len(names) == len(set(names))
    assert all(row.meaning for row in KEYWORDS)
    assert {row.name for row in rows_of("hub")} >= {"revision", "token", "subfolder"}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_warned_of_for_an_ordinary_load(folder, package):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(package).from_pretrained(folder)
