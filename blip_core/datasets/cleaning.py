"""Captions and questions as BLIP was trained on them."""

from __future__ import annotations

import re

DROPPED = re.compile(r'[.!"()*#:;~]')
SPACES = re.compile(r"\s{2,}")
NLVR_WORDS = 40
SIDES = {"left": "right", "right": "left"}


def clean_caption(text: str, max_words: int = 30) -> str:
    """Lower-case a caption, put a space for each of . ! " ( ) * # : ; ~, and cut it to `max_words` words.

    Runs of white space become one space, a single line break or tab inside stays. Source: the original's
    `pre_caption`, which cuts captions to 30 words and the sentences of NLVR to 40.
    """
    text = SPACES.sub(" ", DROPPED.sub(" ", text.lower()))
    return _cut(text.rstrip("\n").strip(" "), max_words)


def clean_question(text: str, max_words: int = 50) -> str:
    """Lower-case a question, drop . ! " ( ) * # : ; ~ without a space in their place, and cut it to `max_words` words.

    The question mark stays. Source: the original's `pre_question`.
    """
    return _cut(DROPPED.sub("", text.lower()).rstrip(" "), max_words)


def clean_sentence(text: str) -> str:
    """Clean a sentence of NLVR as a caption, but cut it to 40 words."""
    return clean_caption(text, NLVR_WORDS)


def swap_sides(sentence: str) -> str:
    """Return the cleaned sentence about two pictures that are swapped: left becomes right and right left."""
    return " ".join(SIDES.get(word, word) for word in sentence.split(" "))


def _cut(text: str, max_words: int) -> str:
    return " ".join(text.split(" ")[:max_words])
