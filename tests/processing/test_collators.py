"""Padding of examples as collators call it, and the further results of a call."""

from __future__ import annotations

import numpy as np
import pytest

from blip_core import BlipProcessor, BlipTokenizer
from tests.helpers.frameworks import numpy

EXAMPLES = [
    {"input_ids": [101, 5, 102], "labels": [5, 6, 7], "pixel_values": np.ones((3, 2, 2)), "label": 1},
    {"input_ids": [101, 102], "labels": [5, 6], "pixel_values": np.zeros((3, 2, 2)), "label": 0},
]


@pytest.fixture(scope="module")
def tokenizer() -> BlipTokenizer:
    return BlipTokenizer()


def test_a_list_of_examples(tokenizer):
    batch = tokenizer.pad(EXAMPLES, return_tensors="np")
    np.testing.assert_array_equal(batch.input_ids, [[101, 5, 102], [101, 102, 0]])
    np.testing.assert_array_equal(batch.attention_mask, [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(batch.labels, [[5, 6, 7], [5, 6, -100]])
    np.testing.assert_array_equal(batch.label, [1, 0])
    assert batch.pixel_values.shape == (2, 3, 2, 2)
    assert "attention_mask" not in tokenizer.pad(EXAMPLES, return_attention_mask=False)


def test_rows_by_name(tokenizer):
    rows = {"input_ids": [[1, 2], [3]]}
    assert tokenizer.pad(rows) == {"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]]}
    left = tokenizer.pad(rows, padding_side="left", pad_to_multiple_of=4)
    assert left.input_ids == [[0, 0, 1, 2], [0, 0, 0, 3]]
    assert tokenizer.pad({"input_ids": [1, 2]}, "max_length", 3) == {
        "input_ids": [1, 2, 0], "attention_mask": [1, 1, 0],
    }  # fmt: skip
    assert tokenizer.pad({"input_ids": [1, 2]}, return_tensors="np").input_ids.shape == (1, 2)


@pytest.mark.parametrize("kind", ["np", "pt", "tf"])
def test_rows_that_are_tensors_stay_tensors(tokenizer, kind):
    rows = [{name: tokenizer(text, return_tensors=kind)[name][0] for name in ("input_ids",)} for text in ("a", "a cat")]
    found = tokenizer.pad(rows)
    assert type(found.input_ids) is type(rows[0]["input_ids"])
    np.testing.assert_array_equal(numpy(found.input_ids), [[101, 1037, 102, 0], [101, 1037, 4937, 102]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"labels": [[1]]}, "There must be input_ids to pad, got labels"), ([], "There must be input_ids to pad"),
        ([1, 2], "Rows to pad must be a dictionary, or a list of one for each example"),
        ([{"input_ids": [1], "labels": [1]}, {"input_ids": [1]}], "Example 1 has no labels, which others have"),
        ("cat", "Rows to pad must be a dictionary"),
    ],
)  # fmt: skip
def test_what_cannot_be_padded_is_refused(tokenizer, rows, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.pad(rows, return_tensors="np")


def test_further_results_of_a_call(tokenizer):
    wanted = ("token_type_ids", "special_tokens_mask", "offsets_mapping", "length")
    found = tokenizer(
        "a cat", "here", padding="max_length", max_length=7, **{f"return_{name}": True for name in wanted}
    )
    assert found == {
        "input_ids": [101, 1037, 4937, 102, 2182, 102, 0], "token_type_ids": [0, 0, 0, 0, 1, 1, 0],
        "attention_mask": [1] * 6 + [0], "special_tokens_mask": [1, 0, 0, 1, 0, 1, 1],
        "offset_mapping": [(0, 0), (0, 1), (2, 5), (0, 0), (0, 4), (0, 0), (0, 0)], "length": [7],
    }  # fmt: skip
    same = tokenizer.encode_plus("a cat", "here")
    assert same == tokenizer("a cat", "here")
    pairs = tokenizer.batch_encode_plus([("a cat", "here"), ("a", "b")])
    assert (pairs.input_ids[0], len(pairs.input_ids)) == (same.input_ids, 2)
    assert tokenizer.batch_encode_plus(["a cat", "here"]) == tokenizer(["a cat", "here"])
    assert tokenizer.encode("a cat", return_tensors="np").shape == (1, 4)


def test_what_is_cut_goes_on_in_further_rows(tokenizer):
    options = {"truncation": True, "max_length": 5, "stride": 1, "return_overflowing_tokens": True, "padding": True}
    found = tokenizer(["1 2 3 4 5 6", "a"], **options)
    one = [1015 + i for i in range(6)]
    assert found.input_ids == [
        [101, *one[:3], 102], [101, *one[2:5], 102], [101, *one[4:], 102, 0], [101, 1037, 102, 0, 0],
    ]  # fmt: skip
    assert found.overflow_to_sample_mapping == [0, 0, 0, 1]
    assert tokenizer("1 2 3 4 5 6", **options).input_ids == found.input_ids[:3]
    with pytest.raises(ValueError, match="stride must be a whole number from 0 to 2, got 3"):
        tokenizer("a", **{**options, "stride": 3})


def test_options_in_dictionaries(tokenizer):
    processor = BlipProcessor(tokenizer=tokenizer)
    pixels = np.full((9, 8, 3), 7, np.uint8)
    found = processor(
        pixels, "a cat", text_kwargs={"padding": "max_length", "max_length": 6}, images_kwargs={"size": (4, 5)},
        common_kwargs={"return_tensors": "np"}, return_token_type_ids=True, return_length=True,
    )  # fmt: skip
    shapes = {name: np.shape(value) for name, value in found.items()}
    assert shapes == {
        "pixel_values": (1, 3, 4, 5), "input_ids": (1, 6), "token_type_ids": (1, 6), "attention_mask": (1, 6),
        "length": (1,),
    }  # fmt: skip
    assert processor(text=[["a", "cat"], ["b"]], is_split_into_words=True)["input_ids"][0] == [101, 1037, 4937, 102]
    assert processor(text=["a", "cat"], prompt="the", is_split_into_words=True)["input_ids"] == [
        101, 1996, 1037, 4937, 102,
    ]  # fmt: skip
    assert processor.model_input_names == ["input_ids", "attention_mask", "pixel_values"]
    with pytest.raises(ValueError, match="max_length: given twice"):
        processor(text="a", max_length=5, text_kwargs={"max_length": 6})
    with pytest.raises(ValueError, match="return_tensors: given twice"):
        processor(text="a", return_tensors="np", common_kwargs={"return_tensors": "np"})


def test_inputs_are_their_data(tokenizer):
    inputs = tokenizer("a cat", return_tensors="np")
    assert inputs.data == dict(inputs)
    inputs.data["more"] = inputs.input_ids
    assert inputs.to("cpu", non_blocking=True)["more"] is inputs.input_ids


@pytest.mark.needs("pt", "tf")
def test_tensors_move_without_waiting(tokenizer):
    for kind in ("pt", "tf"):
        assert tokenizer("a cat", return_tensors=kind).to("cpu", non_blocking=True).input_ids.shape == (1, 4)
