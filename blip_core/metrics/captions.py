"""BLEU, ROUGE-L and CIDEr of captions, as pycocoevalcap computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from blip_core.metrics.ptb import ptb_tokens

Words = Sequence[str]
ORDERS = 4
"""Sequences of one to this many words are counted."""
SIGMA = 6.0
"""CIDEr's tolerance of other lengths, in words."""
BETA = 1.2
"""How many times as much as precision recall counts in ROUGE-L."""


@dataclass(frozen=True)
class CaptionScores:
    """Scores of captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4 of all captions together, 0 to 1.
        rouge_l: The mean of ROUGE-L of each caption, 0 to 1.
        cider: The mean of `ciders`.
        ciders: CIDEr of each caption, 0 to 10.
    """

    bleu: tuple[float, ...]
    rouge_l: float
    cider: float
    ciders: tuple[float, ...]


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score captions against one or more references each, after the official tokenization.

    Raises:
        ValueError: If there are no captions, or a caption has no references.

    Example:
        >>> round(caption_scores(["a cat", "a dog"], [["a cat"], ["the dog"]]).bleu[0], 6)
        0.75
    """
    words = [ptb_tokens(caption) for caption in captions]
    given = [[ptb_tokens(text) for text in texts] for texts in references]
    ciders = cider(words, given)
    rouges = rouge_l(words, given)
    return CaptionScores(bleu(words, given), float(np.mean(rouges)), float(np.mean(ciders)), tuple(ciders))


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """Return BLEU-1 to BLEU-4 of all captions together, 0 to 1; captions and references are lists of words.

    The brevity penalty takes the length of the closest reference, of two the shorter. Source: Papineni et al. 2002,
    with pycocoevalcap's tiny numbers in place of zeros.
    """
    _check(captions, references)
    tiny, small = 1e-15, 1e-9
    right, counted = [0] * ORDERS, [0] * ORDERS
    length = wanted = 0
    for caption, texts in zip(captions, references, strict=True):
        length += len(caption)
        wanted += min((abs(len(text) - len(caption)), len(text)) for text in texts)[1]
        for order in range(ORDERS):
            most: Counter[Words] = Counter()
            for text in texts:
                most |= _sequences(text, order + 1)
            found = _sequences(caption, order + 1)
            right[order] += (found & most).total()
            counted[order] += found.total()
    ratio = (length + tiny) / (wanted + small)
    penalty = min(1.0, math.exp(1 - 1 / ratio))
    precisions = np.array([(a + tiny) / (b + small) for a, b in zip(right, counted, strict=True)])
    means = np.cumprod(precisions) ** (1 / np.arange(1, ORDERS + 1))
    return tuple(float(mean * penalty) for mean in means)


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Return ROUGE-L of each caption, 0 to 1: the longest sequence of words that it shares, gaps allowed.

    Precision and recall are each the best that any reference gives. Source: Lin 2004, with pycocoevalcap's weight of
    recall.
    """
    _check(captions, references)
    scores = []
    for caption, texts in zip(captions, references, strict=True):
        caption, texts = caption or ("",), [text or ("",) for text in texts]  # as pycocoevalcap splits an empty one
        common = [_common(caption, text) for text in texts]
        precision = max(common) / len(caption)
        recall = max(found / len(text) for found, text in zip(common, texts, strict=True))
        both = precision and recall
        scores.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if both else 0.0)
    return scores


def _common(one: Words, other: Words) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0  # row[i - 1] of the word before
        for i, found in enumerate(other, 1):
            before, row[i] = row[i], before + 1 if word == found else max(row[i], row[i - 1])
    return row[-1]


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Return CIDEr of each caption, 0 to 10: similarity to its references, in which rare sequences of words count more.

    How rare they are is counted over the given references, so the score of one picture depends on the others, and that
    of a single picture is 0. Source: Vedantam et al. 2015; this is the CIDEr-D of pycocoevalcap's `Cider`.
    """
    _check(captions, references)
    appearances: Counter[Words] = Counter()
    for texts in references:
        appearances.update({key for text in texts for order in range(ORDERS) for key in _sequences(text, order + 1)})
    everything = math.log(len(captions))

    def weights(text: Words, order: int) -> tuple[dict[Words, float], float]:
        values = {
            key: count * (everything - math.log(max(1, appearances[key])))
            for key, count in _sequences(text, order).items()
        }
        return values, math.sqrt(sum(value**2 for value in values.values()))

    scores = []
    for caption, texts in zip(captions, references, strict=True):
        total = 0.0
        for order in range(1, ORDERS + 1):
            own, own_norm = weights(caption, order)
            for text in texts:
                other, norm = weights(text, order)
                if not own_norm or not norm:
                    continue
                alike = sum(min(value, other[key]) * other[key] for key, value in own.items() if key in other)
                # pycocoevalcap takes the number of word pairs, one less than that of words, for the length.
                gap = max(len(caption) - 1, 0) - max(len(text) - 1, 0)
                total += alike / (own_norm * norm) * math.exp(-(gap**2) / (2 * SIGMA**2))
        scores.append(10 * total / ORDERS / len(texts))
    return scores


def _sequences(words: Words, order: int) -> Counter[Words]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _check(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if len(captions) != len(references):
        raise ValueError(f"Each caption needs its references: got {len(captions)} captions, {len(references)} sets.")
    if not captions:
        raise ValueError("There are no captions to score.")
    if missing := [str(number) for number, texts in enumerate(references) if not texts]:
        raise ValueError(f"Captions {_few(missing)} have no references; leave them out.")


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
