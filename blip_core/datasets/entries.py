"""From one entry of a file, a dictionary that is not trusted, to an example of a task."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blip_core.datasets.cleaning import clean_caption
from blip_core.datasets.examples import Example, Picture
from blip_core.processing.texts import HALF
from blip_core.tasks import Task

VISUAL_GENOME_WEIGHT = 0.2
MOST_CLASSES = 2**31
LABELS = {"True": 1, "False": 0}
ENTAILMENT = {"contradiction": 0, "neutral": 1, "entailment": 2}
"""The classes of SNLI-VE as LAVIS numbers them."""
MATCHES = {**LABELS, "match": 1, "no match": 0}


def make_example(task: Task, key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """Check the fields that a task reads and make an example of them; other fields are ignored.

    Raises `ValueError` with the reason where a field is missing or of the wrong type. Captions, answers and labels may
    be missing, as in files for testing.
    """
    if len(images) != task.pictures:
        raise ValueError(f"needs {task.pictures} picture{'s' * (task.pictures > 1)}, got {len(images)}")
    example: Example = task.parse(key, images, entry)
    return example


def parse_captions(key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """An entry of a picture with captions."""
    texts = tuple(_text("caption", text) for text in _list_of_texts(entry, "caption", least=0))
    image_id = _identity(entry, "image_id" if "image_id" in entry else "img_id")  # the original's name in NoCaps
    given = entry.get("source")
    sources = tuple(one for one in given if isinstance(one, str)) if isinstance(given, list) else ()
    sources = sources if len(sources) == len(texts) else ()
    return Example(key, images, texts, image_id, group=_group(entry, "domain"), sources=sources)


def parse_question(key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """An entry of VQA. Each different answer weighs its share of all; one of Visual Genome 0.2, as in the original."""
    question = _text("question", entry.get("question"))
    answers = _list_of_texts(entry, "answer", least=1)
    counts = Counter(_text("answer", answer, str.strip) for answer in answers)
    if entry.get("dataset") == "vg":
        weights = [VISUAL_GENOME_WEIGHT] * len(counts)
    else:
        weights = [count / len(answers) for count in counts.values()]
    image_id, question_id = _identity(entry, "image_id"), _identity(entry, "question_id")
    group = _group(entry, "answer_type")
    return Example(key, images, (question,), image_id, question_id, tuple(counts), tuple(weights), group=group)


def parse_sentence(key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """An entry of NLVR: a sentence about two pictures."""
    label = _label(entry, LABELS, "'True' or 'False'")
    return Example(key, images, (_text("sentence", entry.get("sentence")),), label=label)


def parse_class(key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """An entry of a picture, a sentence and their class: a whole number from 0 on, or a word of SNLI-VE."""
    label = entry.get("label")
    label = ENTAILMENT.get(label, label) if isinstance(label, str) else label
    if label is not None and (isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < MOST_CLASSES):
        words = ", ".join(ENTAILMENT)
        raise ValueError(f"label must be a whole number from 0 on, or one of {words}, got {label!r:.80}")
    text = _text("sentence", entry.get("sentence"))
    return Example(key, images, (text,), _identity(entry, "image_id"), label=label)


def parse_pair(key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """An entry of a picture and a caption that match or do not."""
    label = _label(entry, MATCHES, "'match' or 'no match'")
    caption = _text("caption", entry.get("caption"))
    return Example(key, images, (caption,), _identity(entry, "image_id"), label=label, group=_group(entry, "source"))


def parse_grounding(key: str, images: tuple[Picture, ...], entry: dict[str, Any]) -> Example:
    """An entry of expressions in a `text`, and the `box` in the picture that they mean."""
    texts = tuple(_text("text", text) for text in _list_of_texts(entry, "text", least=1))
    if not texts:
        raise ValueError("has no text")
    box = entry.get("box")
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box)
    if box is not None and not (numbers and all(map(math.isfinite, box)) and min(box[2:]) > 0):
        raise ValueError(f"box must be x, y, width and height in pixels, got {box!r:.80}")
    return Example(key, images, texts, _identity(entry, "image_id"), box=tuple(map(float, box or ())))


def sidecar_entry(sidecars: dict[str, bytes]) -> dict[str, Any]:
    """Make an entry of the files beside a picture: the object of its .json, and the lines of its .txt as captions.

    Raises `ValueError` where there is neither, and for one that cannot be read.
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
        remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"has a text beside it that cannot be read: {error}{remedy}") from None
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
    if not any(letter.isprintable() and letter != " " for letter in clean(value)):  # the tokenizer drops the others
        raise ValueError(f"{name} has no words, got {value!r:.80}")
    return value


def _label(entry: dict[str, Any], names: Mapping[str, int], said: str) -> int | None:
    label = entry.get("label")
    label = names.get(label, label) if isinstance(label, str) else label
    if label is not None and label not in (0, 1):
        raise ValueError(f"label must be {said}, got {label!r:.80}")
    return None if label is None else int(label)


def _identity(entry: dict[str, Any], name: str) -> str | int | None:
    value = entry.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{name} must be a whole number or a text, got {value!r:.80}")
    return value


def _group(entry: dict[str, Any], name: str) -> str | None:
    """What an example is counted with, where a text says it; in own data such a field may mean anything."""
    value = entry.get(name)
    return value if isinstance(value, str) and value and not HALF.search(value) else None


def _list_of_texts(entry: dict[str, Any], name: str, least: int) -> Sequence[Any]:
    """The texts of a field that holds one or a list of `least` or more; none where the field is missing."""
    value = entry.get(name)
    if value is None:
        return ()
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or len(value) < least:
        raise ValueError(f"{name} must be a text or a list of texts, got {value!r:.80}")
    return value
