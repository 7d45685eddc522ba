"""The processor that joins the two: what it returns, a captioner's labels, moving inputs, and files."""

from __future__ import annotations

import copy
import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

from blip_core import BlipImageProcessor, BlipProcessor, BlipTokenizer
from blip_core.engines import ENGINES
from blip_core.processing.inputs import BlipInputs
from tests.helpers.drawn_pictures import PHOTOS, cat, photo

PROMPT = "a picture of "  # 1037, 3861, 1997
CAPTIONS = ["a cat", "two dogs on the beach"]  # 1037, 4937 and 2048, 6077, 2006, 1996, 3509


@pytest.fixture(scope="module")
def processor() -> BlipProcessor:
    return BlipProcessor(BlipImageProcessor(size=(24, 32)))


def test_pictures_and_texts(processor):
    inputs = processor([photo(), PHOTOS / "astronaut.jpg"], CAPTIONS, return_tensors="np")
    assert {name: value.shape for name, value in inputs.items()} == {
        "pixel_values": (2, 3, 24, 32), "input_ids": (2, 7), "attention_mask": (2, 7),
    }  # fmt: skip
    np.testing.assert_array_equal(inputs.input_ids[0], [101, 1037, 4937, 102, 0, 0, 0])
    np.testing.assert_array_equal(inputs.attention_mask, [[1] * 4 + [0] * 3, [1] * 7])
    alone = processor(PHOTOS / "astronaut.jpg", return_tensors="np")
    np.testing.assert_array_equal(alone.pixel_values[0], inputs.pixel_values[1])
    assert list(alone) == ["pixel_values"]
    flat = processor(images=photo(), text=CAPTIONS[0])
    assert (flat["input_ids"], len(flat["pixel_values"])) == ([101, 1037, 4937, 102], 1)
    assert flat.input_ids == processor(text=CAPTIONS[0]).input_ids
    with pytest.raises(AttributeError, match="no 'labels', only pixel_values, input_ids, attention_mask"):
        flat.labels  # noqa: B018


def test_options_reach_both(processor):
    inputs = processor(
        cat(), CAPTIONS, size=(8, 9), do_normalize=False, padding="max_length", max_length=12, padding_side="left",
        pad_to_multiple_of=8, add_special_tokens=False, return_tensors="np",
    )  # fmt: skip
    assert inputs.pixel_values.shape == (1, 3, 8, 9)
    assert inputs.pixel_values.min() >= 0
    np.testing.assert_array_equal(inputs.input_ids[0], [0] * 14 + [1037, 4937])
    assert processor(text=CAPTIONS, max_length=4)["input_ids"][1] == [101, 2048, 6077, 102]
    assert processor(text=CAPTIONS, max_length=4, return_tensors="np")["input_ids"].shape == (2, 4)
    assert processor(text=CAPTIONS, max_length=4, padding=True, return_tensors="np")["input_ids"].shape == (2, 7)


def test_prompts(processor):
    assert processor(text="cat", prompt=PROMPT).input_ids == [101, 1037, 3861, 1997, 4937, 102]
    assert processor(text="cat", prompt="a picture of").input_ids == [101, 1037, 3861, 1997, 4937, 102]
    assert processor(prompt=PROMPT).input_ids == [101, 1037, 3861, 1997, 102]
    assert processor([cat(), cat()], prompt=PROMPT)["input_ids"] == [[101, 1037, 3861, 1997, 102]] * 2


@pytest.mark.parametrize(
    ("options", "expected_ids", "expected_labels"),
    [
        (
            {},
            [[30522, 1037, 3861, 1997, 1037, 4937, 102, 0, 0, 0],
             [30522, 1037, 3861, 1997, 2048, 6077, 2006, 1996, 3509, 102]],
            [[-100, -100, -100, -100, 1037, 4937, 102, -100, -100, -100],
             [-100, -100, -100, -100, 2048, 6077, 2006, 1996, 3509, 102]],
        ),
        (
            {"padding_side": "left", "max_length": 8},
            [[0, 30522, 1037, 3861, 1997, 1037, 4937, 102], [30522, 1037, 3861, 1997, 2048, 6077, 2006, 102]],
            [[-100] * 5 + [1037, 4937, 102], [-100] * 4 + [2048, 6077, 2006, 102]],
        ),
        (
            {"prompt": None, "truncation": True, "max_length": 5, "padding": "max_length"},
            [[30522, 1037, 4937, 102, 0], [30522, 2048, 6077, 2006, 102]],
            [[-100, 1037, 4937, 102, -100], [-100, 2048, 6077, 2006, 102]],
        ),
        (
            {"max_length": 6, "truncation": True, "padding": True, "pad_to_multiple_of": 4},
            [[30522, 1037, 3861, 1997, 1037, 102, 0, 0], [30522, 1037, 3861, 1997, 2048, 102, 0, 0]],
            [[-100] * 4 + [1037, 102, -100, -100], [-100] * 4 + [2048, 102, -100, -100]],
        ),
    ],
)  # fmt: skip
def test_labels(processor, options, expected_ids, expected_labels):
    options = {"prompt": PROMPT, "return_labels": True, "return_tensors": "np", **options}
    inputs = processor([cat(), cat()], CAPTIONS, **options)
    np.testing.assert_array_equal(inputs.input_ids, expected_ids)
    np.testing.assert_array_equal(inputs.labels, expected_labels)
    np.testing.assert_array_equal(inputs.attention_mask, np.array(expected_ids) != 0)
    assert inputs.labels.dtype == np.int64


def test_labels_of_one_text(processor):
    flat = processor(text="a cat", prompt=PROMPT, return_labels=True)
    assert flat == {
        "input_ids": [30522, 1037, 3861, 1997, 1037, 4937, 102], "attention_mask": [1] * 7,
        "labels": [-100] * 4 + [1037, 4937, 102],
    }  # fmt: skip
    assert processor(text="", prompt=PROMPT, return_labels=True).labels == [-100] * 4 + [102]


def test_labels_that_cannot_be_made(processor):
    short = BlipProcessor(tokenizer=BlipTokenizer(model_max_length=5))
    left = BlipProcessor(tokenizer=BlipTokenizer(truncation_side="left"))
    for used, options, message in (
        (processor, {"text": None}, "return_labels=True needs text: the captions"),
        (processor, {"add_special_tokens": False}, "leave add_special_tokens=True"),
        (processor, {"max_length": 5}, "after the 3 tokens of the prompt.*got 5; use at least 6"),
        (short, {"truncation": True}, "after the 3 tokens of the prompt.*got 5; use at least 6"),
        (left, {"max_length": 7}, "The prompt was cut, which truncation_side='left' does"),
    ):
        with pytest.raises(ValueError, match=message):
            used(**{"text": CAPTIONS, "prompt": PROMPT, "return_labels": True, **options})
    enough = left(text=CAPTIONS, prompt=PROMPT, return_labels=True, max_length=10)
    assert enough.labels[1] == [-100] * 4 + [2048, 6077, 2006, 1996, 3509, 102]


def test_decode(processor):
    ids = processor(text=CAPTIONS, return_tensors="np").input_ids
    assert processor.batch_decode(ids, skip_special_tokens=True) == CAPTIONS
    assert processor.decode(ids[0]) == "[CLS] a cat [SEP] [PAD] [PAD] [PAD]"


def test_to_casts_floating_point_tensors_only(processor):
    import tensorflow as tf
    import torch

    options = {"images": cat(), "text": "a cat", "prompt": "this", "return_labels": True}
    inputs = processor(**options, return_tensors="pt")
    assert inputs.to("cpu", torch.float16) is inputs
    for dtype, given in ((torch.bfloat16, torch.bfloat16), (torch.float64, "float64")):
        types = {name: value.dtype for name, value in inputs.to(dtype=given).items()}
        assert types == {"pixel_values": dtype, **dict.fromkeys(("input_ids", "attention_mask", "labels"), torch.int64)}
    assert inputs.to(torch.float16).pixel_values.dtype == torch.float16
    assert {value.device.type for value in inputs.to(torch.device("meta")).values()} == {"meta"}
    inputs = processor(**options, return_tensors="tf").to("cpu", tf.bfloat16)
    assert (inputs.pixel_values.dtype, inputs.labels.dtype) == (tf.bfloat16, tf.int32)
    assert "CPU" in inputs.pixel_values.device
    inputs = processor(**options, return_tensors="np").to("cpu", np.float16)
    assert (inputs.pixel_values.dtype, inputs.labels.dtype) == (np.float16, np.int64)
    with pytest.raises(ValueError, match="pixel_values is a NumPy array, which cannot be moved to 'cuda'"):
        inputs.to("cuda")
    with pytest.raises(ValueError, match=r"pixel_values holds lists, not tensors; call .* with return_tensors"):
        processor(**options).to("cpu")
    with pytest.raises(ValueError, match="dtype must be a type of torch or its name, got 'half precision'"):
        processor(**options, return_tensors="pt").to("cpu", "half precision")


def test_bad_calls_are_refused(processor):
    for options, message in (
        ({}, "Neither images nor text is given"), ({"text": 5}, "text must be a text or a list of them, got 5"),
        ({"text": ["a", None]}, r"text\[1\] must be a text, got None"), ({"text": {"a": 1}}, "text must be a text"),
        ({"text": []}, "text must be a text or a list"), ({"text": ["a", 5], "prompt": "b"}, r"text\[1\] must be"),
        ({"text": "a", "prompt": ["b"]}, "prompt must be one text, for all"),
        ({"text": ["a", "b c"], "padding": False, "return_tensors": "np"}, "do not make one tensor; pass padding=True"),
        ({"text": "a", "padding_side": "up"}, "padding_side must be"), ({"images": 5}, "images must be a path"),
        ({"text": "a", "return_tensors": "jax"}, "return_tensors must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            processor(**options)
    with pytest.raises(TypeError, match="size: no option for text"):
        processor(text="a", size=5)
    with pytest.raises(TypeError, match="unknown"):
        processor(cat(), unknown=5)
    for arguments in ((BlipTokenizer(), None), (None, "bert")):
        with pytest.raises(ValueError, match=r"must be a Blip(ImageProcessor|Tokenizer), got"):
            BlipProcessor(*arguments)


def test_copies_and_files_give_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    names = [
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    expected = processor(photo(), CAPTIONS, return_tensors="np")
    for other in (
        BlipProcessor.from_pretrained(tmp_path), BlipProcessor.from_pretrained(tmp_path / "tokenizer.json"),
        copy.deepcopy(processor), pickle.loads(pickle.dumps(processor)),
    ):  # fmt: skip
        found = other(photo(), CAPTIONS, return_tensors="np")
        assert list(found) == list(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    again = pickle.loads(pickle.dumps(expected))
    assert isinstance(again, BlipInputs)
    np.testing.assert_array_equal(copy.deepcopy(again).input_ids, expected.input_ids)


def test_written_files_are_returned_and_parts_can_be_given(processor, tmp_path):
    assert processor.save_pretrained(tmp_path, legacy_serialization=False) == [str(tmp_path / "processor_config.json")]
    assert json.loads(processor.to_json_string())["image_processor"]["size"] == {"height": 24, "width": 32}
    assert json.loads((tmp_path / "processor_config.json").read_text()) == processor.to_dict()
    written = [*processor.image_processor.save_pretrained(tmp_path), *processor.tokenizer.save_pretrained(tmp_path)]
    names = ["preprocessor_config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json"]
    assert written == [str(tmp_path / name) for name in names]
    again = BlipProcessor.from_pretrained(tmp_path, image_processor=processor.image_processor)
    assert again.image_processor is processor.image_processor
    assert BlipProcessor.from_pretrained(tmp_path, tokenizer=processor.tokenizer).tokenizer is processor.tokenizer
    assert "size={'height': 24, 'width': 32}" in repr(again)
    assert BlipProcessor.from_pretrained(tmp_path, eos_token="[SEP]").tokenizer.eos_token_id == 102
    with pytest.raises(ValueError, match="tokenizer must be a BlipTokenizer, got str"):
        BlipProcessor.from_pretrained(tmp_path, tokenizer="words")


def test_folders_that_hold_little(tmp_path):
    for processor in (BlipProcessor(), BlipProcessor.from_pretrained(tmp_path)):
        assert processor(cat(), "a cat", return_tensors="np").pixel_values.shape == (1, 3, 384, 384)
        assert len(processor.tokenizer) == 30524
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"image_size": 48}}))
    assert BlipProcessor.from_pretrained(tmp_path)(cat(), return_tensors="np").pixel_values.shape == (1, 3, 48, 48)


def test_worker_processes_of_a_loader(processor):
    """What a `DataLoader` needs: the processor goes to worker processes and works there."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        CAPTIONS * 2, batch_size=2, num_workers=1, multiprocessing_context="spawn", collate_fn=processor.tokenizer
    )
    assert [batch["input_ids"] for batch in loader] == [processor(text=CAPTIONS).input_ids] * 2


@pytest.mark.parametrize("engine", ["pt", "tf"])
def test_a_missing_framework_is_told_before_a_picture_is_read(engine, monkeypatch):
    monkeypatch.setitem(ENGINES, engine, replace(ENGINES[engine], package="no_such_package"))
    said = f'return_tensors={engine!r} needs no_such_package, which is not installed: pip install "blip-duo[{engine}]"'
    for words in ({"images": "nowhere.png"}, {"text": "a"}):
        with pytest.raises(ValueError, match=re.escape(said)):
            BlipProcessor()(**words, return_tensors=engine)
