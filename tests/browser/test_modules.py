"""The JavaScript of docs/browser against Python: token ids and texts, pixel values and searches are equal."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipImageProcessor, BlipTokenizer, GenerationConfig
from blip_core.generation import generate
from blip_core.processing.vocabulary import VOCABULARY
from tests.helpers.drawn_pictures import grey, photo, with_alpha
from tests.helpers.generation_table import REFERENCE, TABLE
from tests.helpers.tokenizer_texts import TEXTS

MORE = [
    "Ὀδυσσεύς ΣΊΣΥΦΟΣ İI ŉ ß ǅ", "a\u0301\u0327 \u1e9b\u0323 \ufb03 ①", "snake_case--x…y‽ ¿qué? «oui» „ja“ 「は」",
    "[DEC]a[ENC] [MASK]b", "a" * 100 + " " + "b" * 101, "\ud7fb\uabed \U0001d4b3 \U0001f98a\ufe0f", "##s ##",
    "\x0b\x0c\x1c\u2029x",
]  # fmt: skip
ROWS = [
    [101, 1037, 2158, 1005, 1055, 6045, 1010, 2123, 1005, 1056, 14163, 2015, 1012, 100, 102, 30523, 0],
    [2015, 4937, 2015, 30522], [], [99999, 4937, 1029, 1000, 9339, 1000], [1045, 1005, 2310, 999, 2057, 1005, 2128],
]  # fmt: skip


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
def test_tokens_and_texts_are_those_of_python(javascript, tmp_path, form, clean):
    tokenizer = BlipTokenizer(clean_up_tokenization_spaces=clean)
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    vocabulary = {"vocab.txt": {"vocabulary": VOCABULARY.read_text()}}
    given = vocabulary.get(form) or {"file": json.loads((tmp_path / "tokenizer.json").read_text())}
    texts = [*TEXTS, *MORE]
    found = javascript("tokenize", **given, settings=settings, texts=texts, rows=ROWS)
    assert found["ids"] == tokenizer(texts)["input_ids"]
    assert found["bare"] == tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert found["whole"] == tokenizer.batch_decode(ROWS)
    assert found["texts"] == tokenizer.batch_decode(ROWS, skip_special_tokens=True)


def test_the_shipped_vocabulary_is_read_with_its_own_ids(javascript):
    tokenizer = BlipTokenizer.from_pretrained()
    file = json.loads(tokenizer.backend.to_str())
    texts = ["red apple", "what color is it mostly?", "Côte d'Ivoire", "[DEC] fox"]
    found = javascript("tokenize", file=file, settings={}, texts=texts, rows=tokenizer(texts)["input_ids"])
    assert found["ids"] == tokenizer(texts)["input_ids"]
    assert found["texts"] == tokenizer.batch_decode(found["ids"], skip_special_tokens=True)


def test_added_tokens_are_found_as_in_python(javascript):
    tokenizer = BlipTokenizer()
    tokenizer.add_tokens(["Fuß.Ball", "zzz"])
    tokenizer.add_tokens(["<Keep>"], special_tokens=True)
    texts = ["a fuss.ball FUß.BALL, zzzz", "<Keep> <keep>", "[DEC]ZZZ<Keep>"]
    rows = tokenizer(texts)["input_ids"]
    file = json.loads(tokenizer.backend.to_str())
    found = javascript("tokenize", file=file, settings={}, texts=texts, rows=rows)
    assert found["ids"] == rows
    assert found["texts"] == tokenizer.batch_decode(rows, skip_special_tokens=True)


def test_another_tokenizer_is_refused(javascript):
    file = json.loads(BlipTokenizer.from_pretrained().backend.to_str())
    with pytest.raises(ValueError, match=r"model is BPE; this page knows BERT's alone \(WordPiece\)"):
        javascript("tokenize", file={**file, "model": {"type": "BPE"}}, texts=[], rows=[])


@pytest.mark.parametrize(
    ("picture", "size", "background", "options"),
    [
        (photo, (384, 384), None, {}), (photo, (20, 31), "white", {}),
        (lambda: photo("astronaut.jpg"), (64, 64), None, {}),
        (grey, (37, 50), None, {"resample": 2}), (grey, (501, 333), None, {"resample": 1}),
        (lambda: with_alpha(photo()), (64, 80), "white", {}), (lambda: with_alpha(photo()), (64, 80), None, {}),
        (lambda: with_alpha(photo()), (64, 80), [12, 200, 77], {"do_rescale": False}),
        (lambda: photo().crop((0, 0, 1, 90)), (64, 64), None, {"image_mean": 0.5, "image_std": 0.25}),
        (lambda: photo().resize((64, 64)), (64, 64), None, {"do_normalize": False}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:A picture has transparent parts")
def test_pixel_values_are_those_of_python_to_the_last_bit(javascript, picture, size, background, options):
    image = picture()
    processor = BlipImageProcessor(size=size, background=background, **options)
    expected = processor(image, return_tensors="np").pixel_values[0]
    found = javascript(
        "prepare", pixels=base64.b64encode(image.convert("RGBA").tobytes()).decode(), width=image.width,
        height=image.height, strip=50, background={"white": [255] * 3}.get(str(background), background),
        settings=processor.to_dict(),
    )  # fmt: skip
    values = np.frombuffer(base64.b64decode(found), np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(values, expected)


def test_another_filter_is_refused(javascript):
    settings = BlipImageProcessor(size=8, resample=Image.Resampling.NEAREST.value).to_dict()
    with pytest.raises(ValueError, match="does not know the filter 0"):
        javascript("prepare", pixels="AAAA", width=1, height=1, strip=1, background=None, settings=settings)


class Table:
    """A session over `TABLE`, whose rows are the logits after each token."""

    def prefill(self, input_ids, attention_mask):
        return TABLE[input_ids[:, -1]]

    def step(self, tokens):
        return TABLE[tokens]

    def select(self, rows):
        pass


def searches() -> list[dict]:
    """The searches of the reference, and more options of ours."""
    found = [case for case in json.loads(REFERENCE.read_text()) if not case["options"]["do_sample"]]
    cases = [{"prompt": case["prompt"], "options": case["options"]} for case in found]
    for beams in (1, 2, 5):
        for options in (
            {},
            {"min_new_tokens": 4},
            {"max_length": 3},
            {"length_penalty": 2.0, "early_stopping": "never"},
        ):
            cases.append({"prompt": [1, 2], "options": {"num_beams": beams, **options}})
    cases.append({"prompt": [3], "options": {"max_length": 20, "_from_model_config": True}})
    return cases


@pytest.mark.filterwarnings("ignore:.*no effect with greedy search")
def test_searches_find_the_texts_of_python(javascript):
    cases = searches()
    found = javascript("generate", table=TABLE.tolist(), cases=cases, end=7, positions=24)
    for case, text in zip(cases, found, strict=True):
        options = {**case["options"], "eos_token_id": 7, "pad_token_id": 0, "return_dict_in_generate": True}
        config = GenerationConfig.from_dict({**options, "num_return_sequences": 1})
        ids = np.array([case["prompt"]])
        output = generate(Table(), ids, np.ones_like(ids), config, max_positions=24)
        assert text["tokens"] == output.sequences[0].tolist(), case
        assert text["score"] == pytest.approx(output.sequences_scores[0], rel=1e-5)
        np.testing.assert_allclose(text["logProbs"], output.token_log_probs[0], rtol=1e-5)
        assert text["streamed"] == (text["tokens"][len(case["prompt"]) :] if config.num_beams == 1 else [])


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([1] * 24, {}, "The prompt has 24 tokens"), ([1], {"max_new_tokens": 30}, "may grow to 31, but 24 fit"),
        ([1] * 5, {"max_length": 4}, "The prompt has 5 tokens"),
        ([1], {"min_length": 9, "max_length": 8}, "at least 9"),
        ([1], {"bad_words_ids": [[i] for i in range(24)], "min_length": 3}, "ban every token"),
    ],
)  # fmt: skip
def test_searches_that_cannot_work_are_refused(javascript, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        javascript(
            "generate", table=TABLE.tolist(), cases=[{"prompt": prompt, "options": options}], end=7, positions=24
        )
