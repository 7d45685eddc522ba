"""The configurations: defaults, refusals, and JSON that survives a round trip."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from blip_core import (
    BlipConfig,
    BlipImageProcessor,
    BlipTextConfig,
    BlipTokenizer,
    BlipVisionConfig,
    GenerationConfig,
)


def test_defaults_are_those_of_transformers():
    text, vision = BlipTextConfig(), BlipVisionConfig()
    assert (text.vocab_size, text.num_attention_heads, text.layer_norm_eps, text.sep_token_id) == (30524, 8, 1e-12, 102)
    assert (vision.image_size, vision.patch_size, vision.layer_norm_eps) == (384, 16, 1e-5)
    assert vision.initializer_range == 1e-10
    assert BlipConfig().image_text_hidden_size == 256


def test_presets_are_those_of_the_original():
    base, large = BlipConfig.base(), BlipConfig.large(image_size=480)
    assert base.text_config.num_attention_heads == large.text_config.num_attention_heads == 12
    assert base.vision_config.layer_norm_eps == large.vision_config.layer_norm_eps == 1e-6
    assert (base.vision_config.hidden_size, base.vision_config.num_positions) == (768, 577)
    vision = large.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1024, 24, 16)
    assert (vision.intermediate_size, vision.num_positions) == (4096, 901)
    assert large.text_config.encoder_hidden_size == 1024
    assert base.enc_token_id == 30523


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BlipTextConfig(hidden_size=100, num_attention_heads=8), "BlipTextConfig.num_attention_heads"),
        (lambda: BlipVisionConfig(hidden_size=100, num_attention_heads=8), "BlipVisionConfig.num_attention_heads"),
        (lambda: BlipVisionConfig(image_size=385), "BlipVisionConfig.image_size"),
        (lambda: BlipVisionConfig(patch_size=0), "BlipVisionConfig.patch_size"),
        (lambda: BlipTextConfig(hidden_size=-8), "BlipTextConfig.hidden_size"),
        (lambda: BlipTextConfig(vocab_size=7.5), "BlipTextConfig.vocab_size"),
        (lambda: BlipTextConfig(num_hidden_layers=True), "BlipTextConfig.num_hidden_layers"),
        (lambda: BlipTextConfig(hidden_act="gelou"), "BlipTextConfig.hidden_act"),
        (lambda: BlipVisionConfig(layer_norm_eps=-1e-6), "BlipVisionConfig.layer_norm_eps"),
        (lambda: BlipTextConfig(hidden_dropout_prob=1.0), "BlipTextConfig.hidden_dropout_prob"),
        (lambda: BlipConfig(negative_all_rank=1), "BlipConfig.negative_all_rank must be True or False, got 1"),
        (lambda: BlipTextConfig(bos_token_id=-1), "BlipTextConfig.bos_token_id"),
        (lambda: BlipConfig(text_config={"hidden_act": "none"}), "BlipTextConfig.hidden_act"),
        (lambda: BlipConfig(projection_dim=0), "BlipConfig.projection_dim"),
        (lambda: BlipConfig(vision_config=[1]), "BlipVisionConfig needs a dictionary"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("kind", [BlipConfig, BlipTextConfig, BlipVisionConfig, BlipImageProcessor])
def test_unknown_keywords_are_kept(kind, tmp_path):
    config = kind(my_own=[1], model_type="blip")
    assert config.my_own == [1]
    assert "my_own" in kind(**config.to_dict()).to_dict()
    config.to_json_file(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["my_own"] == [1]
    with pytest.raises(AttributeError, match="no attribute 'another'"):
        config.another  # noqa: B018


def test_what_looks_misspelt_is_told():
    with pytest.warns(UserWarning, match="BlipTextConfig keeps 'hidden_sise' unread; is it 'hidden_size'"):
        assert BlipTextConfig(hidden_sise=3).hidden_size == 768


def test_what_transformers_has_unset():
    config = BlipConfig()
    assert (config.is_encoder_decoder, config.return_dict, config.text_config.output_attentions) == (False, True, False)
    config.return_dict = False
    assert (config.return_dict, "is_encoder_decoder" in config.to_dict()) == (False, False)


def test_unknown_keys_of_a_file_are_kept(tmp_path):
    values = BlipConfig().to_dict()
    values["torch_dtype"] = "float32"
    values["text_config"]["add_cross_attention"] = True
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = BlipConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == values


def test_parts_are_copied_and_the_text_model_gets_the_vision_width():
    text, vision = BlipTextConfig(), BlipVisionConfig(hidden_size=48, num_attention_heads=4)
    config = BlipConfig.from_text_vision_configs(text, vision, projection_dim=9)
    assert config.text_config.encoder_hidden_size == 48
    assert text.encoder_hidden_size == 768
    assert config.projection_dim == 9
    assert config.answer_config().encoder_hidden_size == config.text_config.hidden_size
    assert BlipConfig.from_dict(config.to_dict()) == config


def test_a_part_is_read_out_of_a_whole_configuration(tmp_path):
    BlipConfig.large().save_pretrained(tmp_path)
    assert BlipVisionConfig.from_pretrained(tmp_path) == BlipConfig.large().vision_config
    assert BlipTextConfig.from_pretrained(tmp_path / "config.json") == BlipConfig.large().text_config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must hold a JSON object"),
        ('{"model_type": "bert"}', "model of type 'bert'"),
        ('{"text_config": {"hidden_size": "768"}}', "BlipTextConfig.hidden_size"),
        ("[" * 100_000, "not valid JSON"),
        ('{"more": ' + "[" * 600 + "]" * 600 + "}", "nested more than 100 deep"),
        ('{"vision_config": {"layer_norm_eps": 1' + "0" * 400 + "}}", "layer_norm_eps must be a number of at least 0"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        BlipConfig.from_pretrained(tmp_path)
    assert "config.json" in str(error.value)


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="no file or folder"):
        BlipConfig.from_pretrained(tmp_path / "nothing" / "here")


@pytest.mark.parametrize("kind", [BlipConfig, BlipTextConfig, BlipImageProcessor, BlipTokenizer, GenerationConfig])
def test_attributes_that_are_no_field_are_kept_saved_and_come_back(tmp_path, kind):
    config = kind()
    config.return_dict = False
    config.notes = {"by": ["me"]}
    config.save_pretrained(tmp_path)
    for other in (kind.from_pretrained(tmp_path), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert (other.return_dict, other.notes) == (False, {"by": ["me"]})
        assert other.to_dict() == config.to_dict()
        assert json.loads(other.to_json_string()) == config.to_dict()
        with pytest.raises(AttributeError, match=f"{kind.__name__} has no attribute 'return_dicts'"):
            other.return_dicts  # noqa: B018
    assert not hasattr(kind(), "notes")


def test_what_programs_for_transformers_read(tmp_path):
    config = BlipConfig(projection_dim=9)
    assert config.get_text_config() is config.text_config
    assert config.text_config.get_text_config() is config.text_config
    assert (config.text_config.sub_configs, config.vision_config.tie_word_embeddings) == ({}, True)
    assert config.sub_configs == {"text_config": BlipTextConfig, "vision_config": BlipVisionConfig}
    config.to_json_file(tmp_path / "any.json")
    assert BlipConfig.from_json_file(tmp_path / "any.json") == config
