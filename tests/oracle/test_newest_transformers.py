"""Files go both ways between this package and the newest transformers, and the models give the same numbers.

The second oracle: it runs where transformers 5 or later is installed, `make oracle` in an environment of its own.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import blip_pt
from blip_core import BlipProcessor, GenerationConfig
from blip_core.processing.vocabulary import VOCABULARY
from tests.helpers.transformers_pairs import CONFIGS, assert_close, inputs, make_pair
from tests.oracle.programs import PHOTOS

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="needs transformers 5 or later"),
]
SETTINGS = {"size": {"height": 24, "width": 36}, "image_mean": [0.4, 0.5, 0.6], "do_rescale": True}
TEXTS = ["a cat", "an astronaut's suit, folded"]


def their_processor(folder: Any) -> Any:
    folder.mkdir()
    (folder / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=40)
    return transformers.BlipProcessor(transformers.BlipImageProcessor(**SETTINGS), tokenizer)


def check_same_inputs(ours: Any, theirs: Any) -> None:
    found = ours(text=TEXTS, padding="max_length", truncation=True, return_tensors="np")
    expected = theirs(text=TEXTS, padding="max_length", truncation=True, return_tensors="np")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)  # of the size: resizing may round
    one, other = (processor(images=pixels, return_tensors="np")["pixel_values"] for processor in (ours, theirs))
    np.testing.assert_allclose(one, other, atol=1e-5)
    photo = str(PHOTOS / "astronaut.jpg")
    one, other = (processor(images=photo, return_tensors="np")["pixel_values"] for processor in (ours, theirs))
    assert one.shape == other.shape == (1, 3, 24, 36)
    assert np.abs(one - other).mean() < 0.01


def test_their_processors_are_read(tmp_path):
    theirs = their_processor(tmp_path / "vocabulary")
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists()  # processor_config.json alone
    check_same_inputs(BlipProcessor.from_pretrained(tmp_path / "saved"), theirs)


def test_our_processors_are_read_by_them(tmp_path):
    their_processor(tmp_path / "vocabulary").save_pretrained(tmp_path / "theirs")
    ours = BlipProcessor.from_pretrained(tmp_path / "theirs", do_normalize=False)
    ours.save_pretrained(tmp_path / "ours")
    for name in ("preprocessor_config.json", "processor_config.json"):  # each by itself
        (tmp_path / name).mkdir()
        for path in (tmp_path / "ours").iterdir():
            if path.name in (name, "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                (tmp_path / name / path.name).write_bytes(path.read_bytes())
        theirs = transformers.BlipProcessor.from_pretrained(tmp_path / name)
        assert theirs.image_processor.do_normalize is False
        check_same_inputs(ours, theirs)


@pytest.mark.parametrize("name", ["BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipModel"])
def test_models_go_both_ways(tmp_path, name):
    config = CONFIGS["square"]
    ours, theirs = make_pair(name, config, tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    batch = inputs(config, padded=False)
    if name == "BlipForQuestionAnswering":
        batch["decoder_input_ids"] = batch["input_ids"]
    with torch.no_grad():
        expected = theirs(**batch)
        assert_close(ours(**batch), expected, name)
        assert_close(again.eval()(**batch), expected, name)


OPTIONS = [
    {},
    {"max_length": 20},  # which they count as new tokens
    {"max_length": 14, "min_length": 12},
    {"max_new_tokens": 5, "num_beams": 3, "length_penalty": 0.5},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[20]], "suppress_tokens": [21]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["BlipForConditionalGeneration", "BlipForQuestionAnswering"])
def test_options_of_generation_go_both_ways(tmp_path, name, options):
    config = CONFIGS["square"]
    make_pair(name, config, tmp_path)
    path = tmp_path / "generation_config.json"
    written = transformers.GenerationConfig(**options)
    written.save_pretrained(tmp_path)
    batch = inputs(config, batch=1, padded=False)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    ours = getattr(blip_pt, name).from_pretrained(tmp_path)
    # Their heads do not read the file, see docs/transformers.md: the decoder inside has the options.
    theirs.text_decoder.generation_config = transformers.GenerationConfig.from_pretrained(tmp_path)
    expected = theirs.generate(**{key: value.clone() for key, value in batch.items()})
    assert torch.equal(ours.generate(**batch), expected)
    ours.generation_config.save_pretrained(tmp_path)
    assert "prompt_ids" in json.loads(path.read_text())
    theirs.text_decoder.generation_config = transformers.GenerationConfig.from_pretrained(tmp_path)
    again = theirs.generate(**{key: value.clone() for key, value in batch.items()})
    assert torch.equal(again, expected)


def test_a_length_that_was_derived_from_a_configuration(tmp_path):
    """What they write for each fine-tuned published captioner: 20 stands for 20 new tokens."""
    config = copy.deepcopy(CONFIGS["square"])
    config["text_config"]["sep_token_id"] = 7
    _, theirs = make_pair("BlipForConditionalGeneration", config, tmp_path)
    path = tmp_path / "generation_config.json"
    values = json.loads(path.read_text())
    assert values["_from_model_config"] is True
    path.write_text(json.dumps({**values, "max_length": 20}))
    ours = blip_pt.BlipForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():  # texts that never end
        for model in (ours, theirs):
            model.text_decoder.cls.predictions.bias[7] = -1e4
    pixels = inputs(config, batch=1)["pixel_values"]
    assert ours.generate(pixels).shape == theirs.generate(pixels).shape == (1, 21)
    assert GenerationConfig.from_pretrained(tmp_path).length_limits(1) == (0, 21)


def test_their_options_as_an_object():
    given = transformers.GenerationConfig(num_beams=3, max_new_tokens=9, eos_token_id=102, pad_token_id=0)
    ours = GenerationConfig.of(given, GenerationConfig())
    assert (ours.num_beams, ours.max_new_tokens, ours.eos_token_id, ours.min_length) == (3, 9, 102, 0)
