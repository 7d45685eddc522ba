"""The tokenizer: ids of many kinds of text, lengths, decoding, and what it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from blip_core import BlipTokenizer
from tests.helpers.tokenizer_texts import TEXTS, WORD_IDS, WORDS


@pytest.fixture(scope="module")
def tokenizer() -> BlipTokenizer:
    return BlipTokenizer()


def test_ids(tokenizer):
    for text, ids in TEXTS.items():
        assert tokenizer(text)["input_ids"] == ids, text
        assert tokenizer.encode(text, add_special_tokens=False) == ids[1:-1], text
    batch = tokenizer(list(TEXTS))
    assert batch.input_ids == list(TEXTS.values())
    assert batch.attention_mask == [[1] * len(ids) for ids in batch.input_ids]


def test_words(tokenizer):
    assert tokenizer(WORDS, is_split_into_words=True)["input_ids"] == WORD_IDS
    for words, ids in zip(WORDS, WORD_IDS, strict=True):
        assert tokenizer(words, is_split_into_words=True)["input_ids"] == ids
    pair = tokenizer(WORDS[0], WORDS[2], is_split_into_words=True)["input_ids"]
    assert pair == WORD_IDS[0] + WORD_IDS[2][1:]


def test_blip_tokens(tokenizer):
    assert (len(tokenizer), tokenizer.vocab_size) == (30524, 30522)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("[DEC]", 30522)
    assert (tokenizer.enc_token, tokenizer.enc_token_id) == ("[ENC]", 30523)
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert (ids, tokenizer.mask_token_id) == ([0, 100, 101, 102], 103)
    assert tokenizer.all_special_ids == [0, 100, 101, 102, 103, 30522, 30523]
    assert tokenizer("[DEC]a[ENC]")["input_ids"] == [101, 30522, 1037, 30523, 102]
    assert tokenizer.tokenize("[ENC] unbelievably!") == ["[ENC]", "un", "##bel", "##ie", "##va", "##bly", "!"]
    assert tokenizer.convert_tokens_to_ids(["[ENC]", "cat", "no such"]) == [30523, 4937, 100]
    assert tokenizer.convert_tokens_to_ids("cat") == tokenizer.get_vocab()["cat"] == 4937
    assert tokenizer.convert_ids_to_tokens(4937) == "cat"
    assert tokenizer.convert_ids_to_tokens([101, 4937, 99999], skip_special_tokens=True) == ["cat", "[UNK]"]
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (None, None)
    with pytest.raises(AttributeError, match="no attribute 'end_token_id'"):
        tokenizer.end_token_id  # noqa: B018


def test_decode(tokenizer):
    ids = [30522, 101, 1037, 2158, 1005, 1055, 6045, 1010, 2123, 1005, 1056, 14163, 2015, 1012, 100, 102, 30523, 0]
    shown = "[DEC] [CLS] a man's hat, don't mus. [UNK] [SEP] [ENC] [PAD]"
    assert tokenizer.decode(ids) == shown
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a man's hat, don't mus."
    raw = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert raw == "a man ' s hat, don ' t mus."
    assert BlipTokenizer(clean_up_tokenization_spaces=False).decode(ids, skip_special_tokens=True) == raw
    assert tokenizer.batch_decode([ids, [4937], []], skip_special_tokens=True) == ["a man's hat, don't mus.", "cat", ""]
    assert tokenizer.decode(4937) == "cat"


def test_decode_reads_tensors(tokenizer):
    import tensorflow as tf
    import torch

    rows = np.array([[101, 4937, 102], [101, 3899, 0]])
    for tensor in (rows, rows.astype(np.int32), torch.from_numpy(rows), tf.constant(rows), list(rows)):
        assert tokenizer.batch_decode(tensor, skip_special_tokens=True) == ["cat", "dog"]
        assert tokenizer.decode(tensor[1]) == "[CLS] dog [PAD]"
        assert tokenizer.decode(tensor[1][1]) == "dog"


LONG, SHORT = [1015, 1016, 1017, 1018, 1019], [1037]  # "1 2 3 4 5", "a"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[101, *LONG, 102], [101, *SHORT, 102]]),
        ({"padding": True}, [[101, *LONG, 102], [101, *SHORT, 102, 0, 0, 0, 0]]),
        ({"padding": "longest", "padding_side": "left"}, [[101, *LONG, 102], [0, 0, 0, 0, 101, *SHORT, 102]]),
        ({"padding": "max_length", "max_length": 8}, [[101, *LONG, 102, 0], [101, *SHORT, 102, *[0] * 5]]),
        ({"padding": "max_length", "max_length": 4}, [[101, *LONG, 102], [101, *SHORT, 102, 0]]),
        ({"padding": True, "pad_to_multiple_of": 4}, [[101, *LONG, 102, 0], [101, *SHORT, 102, *[0] * 5]]),
        ({"padding": True, "add_special_tokens": False}, [LONG, [*SHORT, 0, 0, 0, 0]]),
        ({"max_length": 4}, [[101, 1015, 1016, 102], [101, *SHORT, 102]]),
        ({"max_length": 4, "padding": True}, [[101, *LONG, 102], [101, *SHORT, 102, 0, 0, 0, 0]]),
        ({"max_length": 4, "truncation": False}, [[101, *LONG, 102], [101, *SHORT, 102]]),
        ({"max_length": 4, "truncation": True, "padding": True}, [[101, 1015, 1016, 102], [101, *SHORT, 102, 0]]),
        ({"max_length": 2}, [[101, 102], [101, 102]]),
    ],
    ids=str,
)  # fmt: skip
def test_lengths(tokenizer, options, expected):
    inputs = tokenizer(["1 2 3 4 5", "a"], **options)
    assert inputs["input_ids"] == expected
    assert inputs["attention_mask"] == [[int(i != 0) for i in row] for row in expected]
    assert tokenizer(["1 2 3 4 5", "a"], return_attention_mask=False, **options) == {"input_ids": expected}


@pytest.mark.parametrize(
    ("truncation", "length", "expected"),
    [
        (False, 6, ([1, 2, 3, 4, 5], [6, 7])), (True, 8, ([1, 2, 3], [6, 7])), (True, 6, ([1, 2], [6])),
        ("longest_first", 4, ([1], [])), ("only_first", 6, ([1], [6, 7])), ("only_second", 9, ([1, 2, 3, 4, 5], [6])),
    ],
)  # fmt: skip
def test_lengths_of_pairs(tokenizer, truncation, length, expected):
    one, two = ([1014 + i for i in part] for part in expected)
    ids = tokenizer("1 2 3 4 5", "6 7", truncation=truncation, max_length=length)["input_ids"]
    assert ids == [101, *one, 102, *two, 102]


def test_settings_rule_lengths():
    tokenizer = BlipTokenizer(model_max_length=4, padding_side="left", truncation_side="left")
    inputs = tokenizer(["1 2 3 4 5", "a"], truncation=True, padding="max_length", return_tensors="np")
    np.testing.assert_array_equal(inputs.input_ids, [[101, 1018, 1019, 102], [0, 101, 1037, 102]])
    assert len(tokenizer("1 2 3 4 5")["input_ids"]) == 7, "nothing is cut that is not asked for"


def test_tensors(tokenizer):
    import tensorflow as tf
    import torch

    for kind, of, dtype in (
        ("np", np.ndarray, np.int64),
        ("pt", torch.Tensor, torch.int64),
        ("tf", tf.Tensor, tf.int32),
    ):
        for inputs in (tokenizer("a cat", return_tensors=kind), tokenizer(["a cat"], return_tensors=kind)):
            for value in inputs.values():
                assert isinstance(value, of)
                assert (tuple(value.shape), value.dtype) == ((1, 4), dtype)
    assert tokenizer("", add_special_tokens=False, return_tensors="np").input_ids.shape == (1, 0)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, {}, "text must be a text or a list of them, got None"),
        ([], {}, r"text must be a text or a list of them, got \[\]"),
        (5, {}, "text must be a text"), ({"a": 1}, {}, "text must be a text"), (b"ab", {}, r"text\[0\] must be a text"),
        (["a", 5], {}, r"text\[1\] must be a text, got 5"), ([("a", "b")], {}, r"text\[0\] must be a text, got \('a'"),
        ("a", {"is_split_into_words": True}, r"text\[0\] must be a list of words"),
        ([["a"], ["b", 5]], {"is_split_into_words": True}, r"text\[1\] must be a list of words"),
        ("half \ud83d", {}, r"text\[0\] holds half of a surrogate"), ("a", {"text_pair": 5}, r"text_pair\[0\] must be"),
        (["a", "b"], {"text_pair": ["a"]}, "text holds 2 texts and text_pair 1"),
        (["a", "b"], {"text_pair": "a"}, "text_pair must be a text or a list"),
        ("a", {"padding": "max"}, "padding must be one of False, True, long"), ("a", {"padding": 1}, "padding must"),
        ("a", {"padding_side": "up"}, "padding_side must be one of right, left, got 'up'"),
        ("a", {"truncation": "first"}, "truncation must be one of"), ("a", {"truncation": 1}, "truncation must be one"),
        ("a", {"max_length": 0}, "max_length must be a whole number of at least 1, got 0"),
        ("a", {"max_length": "9", "truncation": True}, "max_length must be"),
        ("a", {"max_length": 1}, "max_length must leave room for 2 special tokens, got 1"),
        ("a", {"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of must be"),
        ("a b c", {"truncation": "only_second", "max_length": 3}, "'only_second' needs text_pair"),
        ("a b", {"text_pair": "a b c d", "truncation": "only_first", "max_length": 5}, "would have to drop 4 tokens"),
        ("a", {"return_tensors": "jax"}, "return_tensors must be one of None, np, pt, tf"),
        (["a", "b c"], {"return_tensors": "np"}, "do not make one tensor; pass padding=True"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_texts_and_options_are_refused(tokenizer, text, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(text, **options)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1]], "one row of whole numbers"), ([1.5], "one row of whole numbers"), ("cat", "one row of whole"),
        (None, "one row of whole"), ([5, -100], "take the -100 of labels out"), ([2**40], "between 0 and 4294967295"),
    ],
)  # fmt: skip
def test_bad_ids_are_refused(tokenizer, ids, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_side": "up"}, "padding_side must"), ({"truncation_side": "up"}, "truncation_side must"),
        ({"model_max_length": 0}, "model_max_length must"), ({"clean_up_tokenization_spaces": 1}, "clean_up_tok"),
        ({"special_tokens": {"cls": "<s>"}}, "no '<s>' token"), ({"tokenizer": "bert"}, "tokenizer must be"),
        ({"special_tokens": {"bos": "<s>"}}, "must name unk, sep, pad, cls, mask"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BlipTokenizer(**options)


def test_one_tokenizer_in_many_threads(tokenizer):
    def run(i: int) -> list[list[int]]:
        return tokenizer(texts[i : i + 9], truncation=True, max_length=3 + i % 5, padding=True)["input_ids"]

    texts = list(TEXTS) * 6
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(90))) == [run(i) for i in range(90)]
