"""Validation of texts and token ids, and the clean-up of decoded text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

Text = str | Sequence[str]
"""One text, or with `is_split_into_words` the list of its words."""

HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: Python strings can hold one, UTF-8 cannot."""

GAPS = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'"} | {
    f" {ending}": ending for ending in ("n't", "'m", "'s", "'ve", "'re")
}


def check_texts(name: str, texts: Any, is_split_into_words: bool = False) -> list[Any]:
    """Return texts as a list. Raises `ValueError` naming the argument and index of what is not a text."""
    expected = "a list of words (is_split_into_words=True)" if is_split_into_words else "a text"
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts:
        raise ValueError(f"{name} must be {expected} or a list of them, got {texts!r:.80}.")
    for index, text in enumerate(texts):
        words = text if is_split_into_words else [text]
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{name}[{index}] must be {expected}, got {text!r:.80}.")
        if any(map(HALF.search, words)):
            raise ValueError(f"{name}[{index}] holds half of a surrogate pair, which is no character; take it out.")
    return list(texts)


def to_ids(ids: Any) -> list[int]:
    """Return one row of token ids, or a single id, as a list; takes a list, an array or a tensor of any framework.

    Raises `ValueError` for anything else, and for ids that no vocabulary has.
    """
    if hasattr(ids, "numpy") and not hasattr(ids, "tolist"):  # TensorFlow
        ids = ids.numpy()
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    row = list(ids) if isinstance(ids, Sequence | Iterator) else [ids]
    if not all(isinstance(i, int) or hasattr(i, "__index__") for i in row):
        raise ValueError(f"token ids must be one row of whole numbers, got {ids!r:.80}; for many use batch_decode.")
    row = [int(i) for i in row]
    if row and not 0 <= min(row) <= max(row) < 2**32:
        raise ValueError(
            f"token ids must lie between 0 and {2**32 - 1}, got {min(row)} to {max(row)}; "
            "take the -100 of labels out first."
        )
    return row


def close_gaps(text: str) -> str:
    """Remove the spaces that decoding leaves before punctuation and around apostrophes, in BERT's order."""
    for gap, closed in GAPS.items():
        text = text.replace(gap, closed)
    return text
