"""The processors beside those of transformers: the same pixels to the last bit, the same ids, the same files."""

from __future__ import annotations

import itertools
import json
import random
import sys
import unicodedata
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from blip_core import BlipImageProcessor, BlipProcessor, BlipTokenizer
from blip_core.processing.vocabulary import VOCABULARY
from tests.helpers.drawn_pictures import CASES, PHOTOS, digest, photo
from tests.helpers.tokenizer_texts import TEXTS, WORD_IDS, WORDS

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::UserWarning")]


def check_pixels(images: Any, **options: Any) -> None:
    expected = transformers.BlipImageProcessor().preprocess(images, **options)["pixel_values"]
    found = BlipImageProcessor().preprocess(images, **options)["pixel_values"]
    assert type(found) is type(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_the_cases_of_the_other_tests(name):
    images, options, expected = CASES[name]
    assert digest(transformers.BlipImageProcessor().preprocess(images(), **options)["pixel_values"]) == expected
    # Of uint8 transformers makes int32 in TensorFlow, which nothing needs.
    for kind in (None, "np", "pt") if name == "only resize" else (None, "np", "pt", "tf"):
        check_pixels(images(), return_tensors=kind, **options)


@pytest.mark.parametrize("file", ["astronaut.jpg", "cat.png", "coffee_turned.jpg", "camera_grey.png"])
def test_photographs_with_every_combination_of_options(file):
    image = photo(file)
    check_pixels(str(PHOTOS / file))
    check_pixels(image)
    for resize, rescale, normalize in itertools.product((True, False), repeat=3):
        for layout, size in itertools.product(("channels_first", "channels_last"), ((31, 57), (500, 301))):
            check_pixels(
                image.convert("RGB"), do_resize=resize, do_rescale=rescale, do_normalize=normalize, data_format=layout,
                size={"height": size[0], "width": size[1]},
            )  # fmt: skip


def test_random_pictures_of_odd_sizes():
    import tensorflow as tf
    import torch

    noise = np.random.default_rng(0)
    for _ in range(100):
        height, width, new_height, new_width, resample = (
            int(n) for n in noise.integers((4, 4, 1, 1, 0), (90, 90, 99, 99, 6))
        )
        array = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        options = {"size": {"height": new_height, "width": new_width}, "resample": resample}
        for image in (Image.fromarray(array), array, array.transpose(2, 0, 1), array.astype(np.float32)):
            check_pixels(image, **options)
        for make in (torch.from_numpy, tf.constant):
            check_pixels(make(array), **options)
            check_pixels(make(array / 255), do_rescale=False, **options)


def test_modes():
    for mode in ("1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"):
        for file in ("astronaut.jpg", "camera_grey.png"):
            image = photo(file).convert("P" if mode == "PA" else "L" if mode == "I;16" else "RGB").convert(mode)
            assert image.mode == mode
            check_pixels(image)


def bert(**options: Any) -> Any:
    return transformers.BertTokenizerFast(vocab_file=str(VOCABULARY), model_max_length=512, **options)


def random_texts() -> list[str]:
    """Every code point, every category by itself, and mixtures of everything with pieces of the vocabulary."""
    draw = random.Random(0)
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts = [" a".join(characters[start : start + 100]) for start in range(0, len(characters), 100)]
    kinds: dict[str, list[str]] = {}
    for character in characters:
        kinds.setdefault(unicodedata.category(character), []).append(character)
    for kind in kinds.values():
        texts += ["".join(draw.choice(kind) + draw.choice(("", " ", "a")) for _ in range(20)) for _ in range(30)]
    pieces, special = (
        VOCABULARY.read_text(encoding="utf-8").split("\n"),
        " \t\n.,'!-\0\x7f\xad\u200b\u200d\ufe0f\u3000é中",
    )
    for _ in range(3000):
        parts = (draw.choice(draw.choice((characters, pieces, special))) for _ in range(draw.randrange(30)))
        texts.append("".join(parts))
    return texts


def test_ids_and_decoded_texts():
    theirs, ours = bert(), BlipTokenizer()
    assert theirs(list(TEXTS))["input_ids"] == list(TEXTS.values())
    assert theirs(WORDS, is_split_into_words=True)["input_ids"] == WORD_IDS
    texts = random_texts()
    ids = theirs(texts)["input_ids"]
    assert ours(texts)["input_ids"] == ids
    draw = random.Random(1)
    ids += [draw.choices(range(30522), k=draw.randrange(30)) for _ in range(1000)]
    for skip, clean in itertools.product((True, False), (True, False, None)):
        options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
        assert ours.batch_decode(ids, **options) == theirs.batch_decode(ids, **options)


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
@pytest.mark.parametrize("tokenize_chinese_chars", [True, False])
def test_vocabularies_of_other_settings(do_lower_case, strip_accents, tokenize_chinese_chars, tmp_path):
    theirs = bert(
        do_lower_case=do_lower_case, strip_accents=strip_accents, tokenize_chinese_chars=tokenize_chinese_chars
    )
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    texts = [*TEXTS, *random_texts()[-500:]]
    for _ in range(2):
        assert BlipTokenizer.from_pretrained(tmp_path)(texts)["input_ids"] == theirs(texts)["input_ids"]
        (tmp_path / "tokenizer.json").unlink(missing_ok=True)  # then vocab.txt


ONE, MANY = "two dogs are running on the beach", ["a cat", "two dogs are running on the beach in the sun", ""]


@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("pair", [False, True])
def test_padding_and_truncation(pair, truncation_side):
    theirs, ours = bert(truncation_side=truncation_side), BlipTokenizer(truncation_side=truncation_side)
    refused, compared, reasons = 0, 0, set()
    for padding, truncation, length, multiple, side, special, words, tensors in itertools.product(
        (False, True, "longest", "max_length", "do_not_pad"),
        (None, True, False, "longest_first", "only_first", "only_second", "do_not_truncate"),
        (None, 3, 8, 40), (None, 8), ("left", "right"), (True, False), (True, False), (None, "np"),
    ):  # fmt: skip
        options = {
            "padding": padding, "truncation": truncation, "max_length": length, "pad_to_multiple_of": multiple,
            "padding_side": side, "add_special_tokens": special, "is_split_into_words": words,
            "return_tensors": tensors,
        }  # fmt: skip
        for text in (ONE, MANY) if not words else (ONE.split(), [text.split() for text in MANY]):
            others = ("no " + ONE if isinstance(text, str) else [*text][::-1]) if pair else None
            try:
                found = ours(text, others, **options)
            except ValueError:  # nothing that fits, or rows of unlike length, which transformers passes on
                refused += 1
                continue
            try:
                expected = theirs(text, others, return_token_type_ids=False, **options)
            except Exception as error:  # transformers raises nothing more specific
                reasons.add(str(error).split("(")[0].strip())
                continue
            compared += 1
            if tensors is None:
                assert found == dict(expected), options
            else:
                assert found.keys() == expected.keys()
                for name, value in expected.items():
                    np.testing.assert_array_equal(found[name], value, err_msg=str(options), strict=True)
    assert reasons <= {
        "Truncation and padding are both activated but truncation length",
        "Truncation error: Sequence to truncate too short to respect the provided max_length",
    }
    assert compared > refused


def check_processors(theirs: Any, ours: BlipProcessor) -> None:
    images, texts = [photo(), photo("astronaut.jpg")], ["a cat, isn't it?", "Crème 猫"]
    for kind in ("np", "pt", "tf"):
        expected = theirs(images, texts, padding=True, return_tensors=kind)
        found = ours(images, texts, padding=True, return_tensors=kind)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (type(found[name]), found[name].dtype) == (type(value), value.dtype)
            np.testing.assert_array_equal(found[name], value)
    ids = expected["input_ids"]
    assert ours.batch_decode(ids, skip_special_tokens=True) == theirs.batch_decode(ids, skip_special_tokens=True)


def test_each_reads_the_files_of_the_other(tmp_path):
    theirs = transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": 40, "width": 56}, image_mean=[0.5, 0.4, 0.3], resample=2),
        bert(),
    )
    theirs.image_processor.something_else = [1, {"two": None}]
    theirs.save_pretrained(tmp_path / "theirs")
    ours = BlipProcessor.from_pretrained(tmp_path / "theirs")
    check_processors(theirs, ours)
    ours.save_pretrained(tmp_path / "ours")
    values = json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())
    assert values["something_else"] == [1, {"two": None}]
    for options, kind in (({}, "BertTokenizerFast"), ({"use_fast": False}, "BertTokenizer")):
        back = transformers.BlipProcessor.from_pretrained(tmp_path / "ours", **options)
        assert type(back.image_processor) is transformers.BlipImageProcessor
        assert type(back.tokenizer) is getattr(transformers, kind)
        check_processors(back, ours)
    assert (back.tokenizer.bos_token_id, back.tokenizer.convert_tokens_to_ids("[ENC]")) == (30522, 30523)
    assert back.batch_decode([[30522, 4937, 30523]], skip_special_tokens=True) == ["cat"]


def test_an_empty_second_text():
    """In a batch transformers keeps it, alone it does not; here it is the same."""
    batch, alone = bert()(["cat"], [""])["input_ids"][0], bert()("cat", "")["input_ids"]
    assert alone == [101, 4937, 102]
    assert BlipTokenizer()("cat", "")["input_ids"] == BlipTokenizer()(["cat"], [""])["input_ids"][0] == batch


def test_blip_tokens_are_the_difference():
    assert len(bert()("[DEC] cat")["input_ids"]) > len(BlipTokenizer()("[DEC] cat")["input_ids"]) == 4
    assert (bert().decode([30522, 4937, 30523]), BlipTokenizer().decode([30522, 4937, 30523])) == (
        "cat",
        "[DEC] cat [ENC]",
    )
