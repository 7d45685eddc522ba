"""The tokenizer's vocabularies and files: copies, round trips, other languages, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import pytest
from tokenizers import Tokenizer

from blip_core import BlipTokenizer
from tests.helpers.tokenizer_texts import TEXTS


def tiny(*pieces: str, names: str = "[PAD] [UNK] [CLS] [SEP] [MASK]") -> str:
    """The lines of a `vocab.txt`."""
    return "".join(f"{piece}\n" for piece in (*names.split(), *pieces))


def check_same(one: BlipTokenizer, two: BlipTokenizer) -> None:
    assert one.get_vocab() == two.get_vocab()
    assert one(list(TEXTS))["input_ids"] == two(list(TEXTS))["input_ids"]
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "clean_up_tokenization_spaces",
        "special_tokens",
    ):
        assert getattr(one, name) == getattr(two, name)


def test_copies_and_files_give_the_same(tmp_path):
    tokenizer = BlipTokenizer(
        model_max_length=77, padding_side="left", truncation_side="left", clean_up_tokenization_spaces=False
    )
    tokenizer.extra = {"mine": [1]}
    tokenizer.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert values["mine"] == [1]
    assert values["additional_special_tokens"] == ["[ENC]"]
    for other in (
        copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)), BlipTokenizer.from_pretrained(tmp_path),
        BlipTokenizer.from_pretrained(str(tmp_path / "tokenizer.json")),
    ):  # fmt: skip
        check_same(tokenizer, other)
        assert other.extra["mine"] == [1]
    (tmp_path / "tokenizer.json").unlink()
    check_same(tokenizer, BlipTokenizer.from_pretrained(tmp_path))
    check_same(tokenizer, BlipTokenizer.from_pretrained(tmp_path / "vocab.txt"))
    (tmp_path / "vocab.txt").unlink()
    check_same(tokenizer, BlipTokenizer.from_pretrained(tmp_path))


def test_another_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text(tiny("Hund", "hund", "ü", "##e", "u", "猫"), encoding="utf-8")
    lower = BlipTokenizer.from_pretrained(tmp_path)
    assert (len(lower), lower.vocab_size, lower.bos_token_id, lower.enc_token_id) == (13, 11, 11, 12)
    assert lower("Hund Ü ue 猫猫")["input_ids"] == [2, 6, 9, 9, 8, 10, 10, 3]
    config = {"do_lower_case": False, "tokenize_chinese_chars": False, "model_max_length": int(1e30)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    cased = BlipTokenizer.from_pretrained(tmp_path)
    assert cased("Hund Ü ü 猫猫")["input_ids"] == [2, 5, 1, 7, 1, 3]
    assert cased.model_max_length == 512
    cased.save_pretrained(tmp_path / "saved")
    assert BlipTokenizer.from_pretrained(tmp_path / "saved")("Hund ü")["input_ids"] == [2, 5, 7, 3]
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["do_lower_case"] is False


def test_other_names_and_more_tokens(tmp_path):
    BlipTokenizer().save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8").replace("[CLS]", "<s>").replace("[SEP]", "</s>")
    backend = Tokenizer.from_str(text)
    backend.add_special_tokens(["<img>"])
    backend.enable_truncation(1)  # settings of whoever saved it, which are not those of a call here
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"cls_token": "<s>", "sep_token": {"content": "</s>", "lstrip": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = BlipTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.cls_token_id, tokenizer.sep_token, tokenizer.bos_token_id, len(tokenizer)) == (
        101,
        "</s>",
        30522,
        30525,
    )
    assert tokenizer("a<img>")["input_ids"] == [101, 1037, 30524, 102]
    tokenizer.save_pretrained(tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert values["additional_special_tokens"] == ["[ENC]", "<img>"]
    check_same(tokenizer, BlipTokenizer.from_pretrained(tmp_path / "saved"))


def test_a_model_of_another_vocabulary_is_told(tmp_path):
    for size, warns in ((30524, False), (30522, False), (21130, True), (50000, True)):
        (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": size}}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(BlipTokenizer.from_pretrained(tmp_path)) == 30524
        assert [f"a vocabulary of {size} tokens" in str(warning.message) for warning in caught] == [True] * warns


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b"{", "is no tokenizer file"), ("tokenizer.json", b"{}", "is no tokenizer file"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Pickle"}}', "is no tokenizer file"),
        ("vocab.txt", b"a\nb\n", "is no BERT vocabulary"), ("vocab.txt", b"\xff\xfe\x00", "is no tokenizer file"),
        ("vocab.txt", b"", "is no BERT vocabulary"), ("vocab.txt", b"[UNK]\n[CLS]\n[SEP]\n", r"no '\[PAD\]' token"),
        ("tokenizer_config.json", b"{", "is not valid JSON"), ("tokenizer_config.json", b"[]", "must hold a JSON"),
        ("tokenizer_config.json", b'{"padding_side": "up"}', "padding_side must be"),
        ("tokenizer_config.json", b'{"model_max_length": "a"}', "model_max_length must be"),
        ("tokenizer_config.json", b'{"cls_token": 5}', "special_tokens must name"),
        ("tokenizer_config.json", b'{"cls_token": "<s>"}', "no '<s>' token"),
        ("tokenizer_config.json", b'{"do_lower_case": "yes"}', "do_lower_case, .* must be true or false"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_files_are_named(file, content, message, tmp_path):
    (tmp_path / "vocab.txt").write_text(tiny("a"))
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        BlipTokenizer.from_pretrained(tmp_path)
    assert file in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        BlipTokenizer.from_pretrained(tmp_path / "no such folder")
