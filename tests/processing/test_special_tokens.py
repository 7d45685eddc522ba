"""What a tokenizer knows of its tokens: kinds, lists of them, and words that are added."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import AddedToken

from blip_core import BlipTokenizer


@pytest.fixture
def tokenizer() -> BlipTokenizer:
    return BlipTokenizer()


def test_lists_of_special_tokens(tokenizer):
    assert tokenizer.all_special_tokens == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    assert tokenizer.special_tokens_map == {
        "bos_token": "[DEC]", "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "mask_token": "[MASK]", "additional_special_tokens": ["[ENC]"],
    }  # fmt: skip
    assert tokenizer.additional_special_tokens_ids == [30523]
    assert tokenizer.get_added_vocab()["[DEC]"] == 30522
    assert tokenizer.vocab["cat"] == 4937
    assert (tokenizer.is_fast, tokenizer.model_input_names) == (True, ("input_ids", "attention_mask"))


def test_rows_with_special_tokens(tokenizer):
    assert tokenizer.build_inputs_with_special_tokens([5, 6]) == [101, 5, 6, 102]
    assert tokenizer.build_inputs_with_special_tokens([5, 6], [7]) == [101, 5, 6, 102, 7, 102]
    assert tokenizer.create_token_type_ids_from_sequences([5, 6], [7]) == [0, 0, 0, 0, 1, 1]
    assert (tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)) == (2, 3)
    assert tokenizer.get_special_tokens_mask([5, 6], [7]) == [1, 0, 0, 1, 0, 1]
    row = np.array([101, 5, 102, 0])
    assert tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) == [1, 0, 1, 1]
    assert tokenizer.convert_tokens_to_string(["un", "##do", "it", "[SEP]"]) == "undo it [SEP]"


def test_added_words_are_never_split_and_come_back(tokenizer, tmp_path):
    assert tokenizer.add_tokens(["blorptown", "cat", AddedToken("Zed", lstrip=True)]) == 2
    assert tokenizer.add_tokens("blorptown") == 0
    assert tokenizer.add_tokens("<who>", special_tokens=True) == 1
    ids = [101, 1037, 30524, 30525, 30526, 102]
    assert tokenizer("a blorptown zed<who>")["input_ids"] == ids
    assert (len(tokenizer), tokenizer.vocab_size) == (30527, 30522)
    said = tokenizer.decode(ids, skip_special_tokens=True)
    assert said.lower() == "a blorptown zed"  # up to tokenizers 0.21 the letters of the word as it was added
    tokenizer.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert values["added_tokens_decoder"]["30525"]["lstrip"] is True
    for _ in range(2):  # from the tokenizer.json, then from the vocab.txt
        again = BlipTokenizer.from_pretrained(tmp_path)
        assert again("a blorptown zed<who>")["input_ids"] == ids
        assert again.additional_special_tokens == ["[ENC]", "<who>"]
        (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    assert tokenizer.save_vocabulary(tmp_path / "more", "my") == (str(tmp_path / "more" / "my-vocab.txt"),)
    assert (tmp_path / "more" / "my-vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()


def test_kinds_can_name_other_tokens(tokenizer, tmp_path):
    """As the original's `init_tokenizer` does, and people who need an end token."""
    assert tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]", "<new>"]}) == 1
    tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
    assert tokenizer.add_special_tokens({"eos_token": "</s>"}) == 1
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.cls_token_id = 103
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.cls_token) == (30525, 30525, "[MASK]")
    tokenizer.save_pretrained(tmp_path)
    again = BlipTokenizer.from_pretrained(tmp_path)
    assert (again.eos_token, again.pad_token_id, again.enc_token_id) == ("</s>", 30525, 30523)
    again.eos_token = None
    assert again.eos_token_id is None


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda t: t.add_tokens(["a", 5]), "A new token must be a text that is not empty"),
        (lambda t: t.add_tokens(""), "A new token must be a text that is not empty"),
        (lambda t: t.add_special_tokens({"end_token": "x"}), "'end_token' is no kind of special token; there are bos"),
        (lambda t: t.add_special_tokens({"bos_token": "<s>"}), "bos_token must name a token of the vocabulary"),
        (lambda t: t.add_special_tokens({"bos_token": "cat"}), r"bos_token is \[DEC\] in every BLIP model"),
        (lambda t: setattr(t, "pad_token", "no such"), "pad_token must name a token of the vocabulary, got 'no such'"),
        (lambda t: setattr(t, "pad_token_id", 10**6), "pad_token_id must name a token of the vocabulary"),
    ],
)
def test_what_cannot_be_a_token_is_refused(tokenizer, what, message):
    with pytest.raises(ValueError, match=message):
        what(tokenizer)
    assert len(tokenizer) == 30524


@pytest.mark.parametrize("listed", [{"5": {"content": "x"}}, {"a": {}}, [1], {"30522": 7}])
def test_listed_tokens_that_do_not_fit_are_refused(listed, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "a\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    with pytest.raises(ValueError, match="added_tokens_decoder"):
        BlipTokenizer.from_pretrained(tmp_path)
