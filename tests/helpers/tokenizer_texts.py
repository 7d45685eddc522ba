"""Texts with their token ids."""

from __future__ import annotations

import json
from pathlib import Path

# Texts, and lists of words, with what transformers' BertTokenizerFast 4.57.6 makes of them; the oracle tests check it.
DATA = json.loads((Path(__file__).parents[1] / "data" / "texts.json").read_text())
TEXTS: dict[str, list[int]] = dict(DATA["texts"])
WORDS, WORD_IDS = map(list, zip(*DATA["words"], strict=True))
