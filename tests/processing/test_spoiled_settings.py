"""Settings that no model has: one `ValueError` that names the file, without taking the machine's time or memory."""

import json
import re
import shutil
import time

import pytest

from blip_core import BlipConfig, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig, Captioner
from blip_core.cli import main
from blip_core.hub import or_shipped
from tests.helpers.drawn_pictures import photo
from tests.helpers.frameworks import INSTALLED


@pytest.fixture
def model(tmp_path):
    """A copy of the model in the package, to be spoiled."""
    return shutil.copytree(or_shipped(None), tmp_path / "model")


def spoil(file, *keys, value):
    whole = part = json.loads(file.read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_billion_layers_are_refused_at_once(model, capsys, part):
    spoil(model / "config.json", part, "num_hidden_layers", value=10**9)
    begin = time.monotonic()
    for words in (["inspect", str(model)], ["caption", str(photo_file(model)), "--model", str(model)]):
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert "num_hidden_layers must be a whole number from 1 to 1000" in err
    assert time.monotonic() - begin < 20


def photo_file(folder):
    """A picture in a file."""
    photo().save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize("name", ["vocab_size", "intermediate_size", "bos_token_id", "pad_token_id", "sep_token_id"])
def test_sizes_and_tokens_beyond_32_bits_are_refused(name):
    with pytest.raises(ValueError, match=rf"BlipTextConfig.{name} must be a whole number from \d to 2147483647"):
        BlipTextConfig(**{name: 10**30})
    with pytest.raises(ValueError, match="image_size must be a whole number from 1 to 2147483647"):
        BlipVisionConfig(image_size=10**30)


def test_padding_beyond_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"pad_token_id must be below vocab_size, got token 100 of 100\."):
        BlipTextConfig(vocab_size=100, pad_token_id=100)


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_deeply_nested_files_are_refused(model, file, depth):
    path = model / file
    path.write_text(path.read_text().rstrip()[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ValueError, match=rf"{file}.*(nested more than 100 deep|recursion depth)"):
        BlipConfig.from_pretrained(model) if file == "config.json" else BlipProcessor.from_pretrained(model)


@pytest.mark.parametrize("engine", INSTALLED)
def test_a_start_token_beyond_the_vocabulary_is_refused(model, engine):
    spoil(model / "config.json", "text_config", "bos_token_id", value=10**9)
    captioner = Captioner.from_pretrained(model, engine=engine, device="cpu")
    for options in ({}, {"prompt": "a"}):
        with pytest.raises(ValueError, match="bos_token_id is 1000000000, but the vocabulary has 2500 tokens"):
            captioner(photo(), **options)


PANICS = {
    "an expression without end": ("pre_tokenizer", {
        "type": "Split", "pattern": {"Regex": "(a|a?)+$"}, "behavior": "Removed", "invert": False,
    }),
    "a map that is none": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "pieces of no length": ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    "a template of the other text": ("post_processor", {
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [],
        "special_tokens": {},
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PANICS)
def test_a_panic_of_the_tokenizers_library_is_a_value_error(tmp_path, name):
    BlipTokenizer().save_pretrained(tmp_path)
    key, value = PANICS[name]
    spoil(tmp_path / "tokenizer.json", key, value=value)
    with pytest.raises(ValueError, match=re.escape("The library tokenizers failed with the settings")):
        BlipTokenizer.from_pretrained(tmp_path)("a cat " + "a" * 30 + "!")
