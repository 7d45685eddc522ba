"""Which part of a picture each word of a text goes by: words of wordpieces, and their maps."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blip_core.processing.tokenizer import BlipTokenizer


class Word(NamedTuple):
    """A word as it is written, and the places of its wordpieces among the tokens, `[CLS]` being 0."""

    text: str
    places: tuple[int, ...]


def find_words(tokenizer: BlipTokenizer, text: str) -> list[Word]:
    """The words of a text, each with its wordpieces; special tokens are left out.

    What the vocabulary splits ("un ##believ ##ably") is one word, and so is what hangs together by punctuation
    ("dog's", "ball,"), whose signs are written but have no places. Raises `ValueError` for a text without words.
    """
    encoding = tokenizer.backend.encode(text)
    words: list[tuple[int, int, list[int]]] = []  # beginning and end in the text, places
    end, signs = -1, False  # of the token before: where it ends, and whether it is punctuation
    for place, (token, (first, last)) in enumerate(zip(encoding.tokens, encoding.offsets, strict=True)):
        if encoding.special_tokens_mask[place]:
            continue
        sign = all(map(_is_punctuation, text[first:last]))
        if words and (token.startswith("##") or (first == end and (sign or signs))):
            words[-1] = words[-1][0], last, words[-1][2] + [place] * (not sign)
        else:
            words.append((first, last, [place] * (not sign)))
        end, signs = last, sign
    found = [Word(text[first:last], tuple(places)) for first, last, places in words if places]
    if not found:
        raise ValueError(f"The text {text!r} has no words to explain.")
    return found


def _is_punctuation(character: str) -> bool:
    """What BERT splits off as punctuation."""
    return unicodedata.category(character).startswith("P") or character in "$+<=>^`|~"


def word_maps(maps: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Maps of the tokens (tokens, rows, columns) -> of each word (words, rows, columns), the mean of its pieces."""
    return np.stack([maps[list(word.places)].mean(axis=0) for word in words])


def peak(heat: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
    """Where a map (rows, columns) is highest, in pixels (x, y) of a picture of `size`: the middle of the patch."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return (float(column) + 0.5) * size[0] / heat.shape[1], (float(row) + 0.5) * size[1] / heat.shape[0]


class Found(NamedTuple):
    """Where a map finds something: a box, and the share of the whole map, 0 to 1, that lies in it."""

    box: tuple[float, float, float, float]
    score: float


def find_box(heat: np.ndarray, size: tuple[int, int]) -> Found | None:
    """The box (x, y, width, height), in pixels of a picture of `size`, around what a map (rows, columns) finds.

    It holds the patches that hang together with the highest one, edge to edge, and are at least half as high. None
    for a map that is the same everywhere.
    """
    if heat.max() <= heat.min():
        return None
    high = heat >= heat.max() / 2
    first = tuple(map(int, np.unravel_index(int(heat.argmax()), heat.shape)))
    found, ahead = {first}, [first]
    while ahead:
        row, column = ahead.pop()
        for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= place[0] < heat.shape[0] and 0 <= place[1] < heat.shape[1]
            if inside and place not in found and high[place]:
                found.add(place)
                ahead.append(place)
    (top, left), (bottom, right) = np.min([*found], axis=0), np.max([*found], axis=0) + 1
    width, height = size[0] / heat.shape[1], size[1] / heat.shape[0]
    box = (float(left * width), float(top * height), float((right - left) * width), float((bottom - top) * height))
    return Found(box, float(heat[top:bottom, left:right].sum() / heat.sum()))


def strengths(maps: np.ndarray) -> np.ndarray:
    """How much each map (words, rows, columns) stands out, from 0 to 1, that of the strongest word."""
    ranges = maps.max(axis=(1, 2)) - maps.min(axis=(1, 2))
    result: np.ndarray = ranges / ranges.max() if ranges.max() > 0 else ranges
    return result
