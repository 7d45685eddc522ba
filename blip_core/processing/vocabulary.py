"""BERT vocabularies: the one in the package, and those read from files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from blip_core.files import MAX_JSON_BYTES, read_json

VOCABULARY = Path(__file__).parents[1] / "data" / "bert-base-uncased-vocab.txt"
BERT_TOKENS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
NORMALIZER = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
"""The settings of a `tokenizer_config.json` that a `vocab.txt` needs."""


@contextmanager
def panics_told() -> Iterator[None]:
    """Turn a panic of the Rust library, which is no `Exception`, into a `ValueError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a class that cannot be imported
            raise
        raise ValueError(
            f"The library tokenizers failed with the settings of the tokenizer.json ({error}); correct or restore it."
        ) from None


def read_vocabulary(
    path: Path,
    *,
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
) -> Tokenizer:
    """Read a `tokenizer.json`, or a `vocab.txt` of one WordPiece a line, to which the other arguments apply.

    `strip_accents=None` strips accents along with case, as in BERT. Raises `ValueError` for a file that is neither.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {MAX_JSON_BYTES} bytes, more than any vocabulary of BLIP.")
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            with panics_told():
                return Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{path} is no tokenizer file ({error}); restore it or download it again.") from None
    vocabulary = {piece: index for index, piece in enumerate(content.removesuffix("\n").split("\n"))}
    if not {"[UNK]", "[CLS]", "[SEP]"} <= vocabulary.keys():
        raise ValueError(f"{path} is no BERT vocabulary: it must hold [UNK], [CLS] and [SEP], one token a line.")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens([token for token in BERT_TOKENS.values() if token in vocabulary])
    try:
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=do_lower_case, strip_accents=strip_accents, handle_chinese_chars=tokenize_chinese_chars
        )
    except TypeError:
        raise ValueError(
            f"{path.with_name('tokenizer_config.json')}: {', '.join(NORMALIZER)} must be true or false."
        ) from None
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def add_listed_tokens(tokenizer: Tokenizer, listed: Any) -> None:
    """Add what the `added_tokens_decoder` of a `tokenizer_config.json` lists, which a `vocab.txt` does not hold.

    Raises `ValueError` for what is no such list, or ids that do not follow those of the vocabulary.
    """
    try:
        tokens = sorted((int(i), AddedToken(**facts)) for i, facts in (listed or {}).items())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"added_tokens_decoder must hold tokens by id, got {listed!r:.80}.") from None
    for i, token in tokens:
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != i:
            raise ValueError(
                f"added_tokens_decoder gives {token.content!r} the id {i}, but the vocabulary "
                f"{tokenizer.token_to_id(token.content)}; restore the vocab.txt that belongs to it."
            )


def warn_of_another_vocabulary(folder: Path, size: int) -> None:
    """Warn if the `config.json` of a model without tokenizer files gives another size than the package's vocabulary."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    text = config.get("text_config")
    expected = text.get("vocab_size") if isinstance(text, dict) else None
    if isinstance(expected, int) and expected not in (size, size - 2):  # with [DEC] and [ENC], or without
        warnings.warn(
            f"{folder} has no tokenizer.json or vocab.txt and a vocabulary of {expected} tokens, but that of "
            f"bert-base-uncased, which is used instead, has {size}; put its own vocab.txt there, unless this is it.",
            stacklevel=3,
        )
