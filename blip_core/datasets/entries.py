"""From one entry of a file, a dictionary of unknown origin, to an example of a task."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from blip_core.datasets.cleaning import clean_caption
from blip_core.datasets.examples import Example, Picture
from blip_core.processing.texts import HALF

VISUAL_GENOME_WEIGHT = 0.2
LABELS = {"True": 1, "False": 0}


def make_example(task: str, key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """Check the fields that `task` reads and make an example of them; other fields are passed over.

    Raises `ValueError` with the reason where a field is missing or of the wrong type. Captions, answers and labels may
    be left out, as files for testing do.
    """
    expected = 2 if task == "nlvr" else 1
    if len(images) != expected:
        raise ValueError(f"needs {expected} picture{'s' * (expected > 1)}, got {len(images)}")
    if task == "vqa":
        answers, weights = _answers(entry)
        return Example(
            key,
            images,
            (_text("question", entry.get("question")),),
            _identity(entry, "image_id"),
            _identity(entry, "question_id"),
            answers,
            weights,
        )
    if task == "nlvr":
        return Example(key, images, (_text("sentence", entry.get("sentence")),), label=_label(entry.get("label")))
    captions = entry.get("caption")
    captions = [] if captions is None else [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list):
        raise ValueError(f"caption must be a text or a list of texts, got {captions!r:.80}")
    return Example(key, images, tuple(_text("caption", text) for text in captions), _identity(entry, "image_id"))


def sidecar_entry(sidecars: dict[str, bytes]) -> dict[str, Any]:
    """Make an entry of what lies beside a picture: the object of its .json, and the lines of its .txt as captions.

    Raises `ValueError` where there is neither, or where one is not what it should be.
    """
    if not sidecars:
        raise ValueError("has neither a .txt nor a .json of the same name")
    entry: dict[str, Any] = {}
    try:
        if ".json" in sidecars:
            entry = json.loads(sidecars[".json"])
        if ".txt" in sidecars:
            lines = sidecars[".txt"].decode("utf-8-sig").splitlines()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a text beside it that cannot be read: {error}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"has a .json that must hold an object, got {entry!r:.80}")
    if ".txt" in sidecars:
        entry = {**entry, "caption": [line for line in lines if line.strip()] or ""}
    return entry


def _text(name: str, value: Any, clean: Callable[[str], str] = clean_caption) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r:.80}")
    if HALF.search(value):
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character: {value!r:.80}")
    if not clean(value):
        raise ValueError(f"{name} has no words, got {value!r:.80}")
    return value


def _identity(entry: dict[str, Any], name: str) -> str | int | None:
    value = entry.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{name} must be a whole number or a text, got {value!r:.80}")
    return value


def _answers(entry: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Different answers, each weighing its share of all; one of Visual Genome weighs 0.2, as in the original."""
    answers = entry.get("answer")
    if answers is None:
        return (), ()
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"answer must be a text or a list of texts, got {answers!r:.80}")
    counts = Counter(_text("answer", answer, str.strip) for answer in answers)
    if entry.get("dataset") == "vg":
        return tuple(counts), (VISUAL_GENOME_WEIGHT,) * len(counts)
    return tuple(counts), tuple(count / len(answers) for count in counts.values())


def _label(value: Any) -> int | None:
    value = LABELS.get(value, value) if isinstance(value, str) else value
    if value is not None and value not in (0, 1):
        raise ValueError(f"label must be 'True' or 'False', got {value!r:.80}")
    return None if value is None else int(value)
