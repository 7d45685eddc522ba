"""The accuracy of answers to visual questions, as the VQA challenge measures it."""

from __future__ import annotations

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're "
    "you've"
)
# One apostrophe may be missing in each; the last one is the other way round, as in the official table.
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in CONTRACTED.split() for i, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}


def normalize_answer(answer: str) -> str:
    """Return an answer in lower case without punctuation and articles, with digits for numbers and with apostrophes.

    A punctuation mark beside a space, or anywhere if a comma stands between digits, is removed; otherwise it becomes a
    space. A period is removed unless a digit follows. Source: the `VQAEval` of the challenge, its quirks included.

    Example:
        >>> normalize_answer("The two dogs, I dont know.")
        "2 dogs i don't know"
    """
    answer = re.sub(r"[\n\t]", " ", answer).strip()
    between_digits = re.search(r"\d,\d", answer)
    plain = answer
    for mark in PUNCTUATION:
        close = f"{mark} " in answer or f" {mark}" in answer or between_digits
        plain = plain.replace(mark, "" if close else " ")
    words = [DIGITS.get(word, word) for word in re.sub(r"\.(?!\d)", "", plain).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_accuracy(answer: str, given: Sequence[str], counts: Sequence[float] | None = None) -> float:
    """Return how well an answer agrees with those that people gave, 0 to 1.

    Each person in turn is left out, and the answer is worth a third for each of the others who gave it, at most 1; the
    result is the mean. Where all people agree, answers are compared as they are, otherwise normalized. Source: the
    `VQAEval` of the challenge.

    Args:
        answer: The model's answer.
        given: Answers of people.
        counts: How many people gave each answer; one unless given.

    Raises:
        ValueError: If nobody gave an answer.

    Example:
        >>> answer_accuracy("dog", ["dog", "puppy"], counts=[2, 8])
        0.6
    """
    counts = [1.0] * len(given) if counts is None else list(counts)
    people = sum(counts)
    if len(counts) != len(given) or min(counts, default=0) <= 0:
        raise ValueError(
            f"An answer is compared with one or more that people gave, got {given!r:.80} by {counts!r:.80}."
        )
    given, answer = [_stripped(text) for text in given], _stripped(answer)
    if len(set(given)) > 1:
        given, answer = [normalize_answer(text) for text in given], normalize_answer(answer)
    same = sum(count for text, count in zip(given, counts, strict=True) if text == answer)
    without_one = max(same - 1, 0)  # where a person who gave it is left out
    return (same * min(without_one / 3, 1) + (people - same) * min(same / 3, 1)) / people


def _stripped(answer: str) -> str:
    return re.sub(r"[\n\t]", " ", answer).strip()
