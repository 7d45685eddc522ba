"""Questions about pictures: VQA v2 and OK-VQA, whose answers lie in a file of their own, A-OKVQA and Visual Genome."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip_core.datasets.look import Item, Look, each, field, numbered

KIND = re.compile("OpenEnded_|MultipleChoice_")
COCO = ("train2014", "val2014", "test2015")


def is_questions(look: Look) -> bool:
    """One object with `questions` that have a `question_id` and an `image_id`."""
    return {"question", "question_id", "image_id"} <= look.first_of("questions").keys()


def is_annotations(look: Look) -> bool:
    """One object with `annotations` that have a `question_id` and `answers`."""
    return {"question_id", "answers"} <= look.first_of("annotations").keys()


def read_questions(look: Look) -> Iterator[Item]:
    """Yield the questions with the answers that are found for them: in the other files, else in the one beside it."""
    questions = look.list_of("questions") or []
    asked = _numbers(questions)
    answers: dict[Any, tuple[list[Any], Any]] = {}
    for other in (*_others(look), *_beside(look.path, "questions", "annotations")):
        if not answers and is_annotations(other) and asked & _numbers(other.list_of("annotations")):
            answers = _answers(other)
    kind, split = (str(look.document.get(name, "")) for name in ("data_type", "data_subtype"))

    def make(question: Any) -> dict[str, Any]:
        number, identity = field(question, "image_id", int), field(question, "question_id", int, str)
        if answers and identity not in answers:
            raise ValueError(f"the annotations have no answer to question {identity}")
        in_coco = _coco(number, split.replace("-dev", ""))
        texts, kind_of_answer = answers.get(identity, (None, None))
        return {
            "image": in_coco if kind in ("", "mscoco") else (f"{kind}_{split}_{number:012}.png",),
            "image_id": number,
            "question": question.get("question"),
            "question_id": identity,
            "answer": texts,
            "answer_type": kind_of_answer,
            "dataset": "vqa",
        }

    return each(numbered(questions), make)


def read_annotations(look: Look) -> Iterator[Item]:
    """Yield the questions that the answers belong to, unless their file is among the others, which has them then."""
    answered = _numbers(look.list_of("annotations"))
    for other in _others(look):
        if is_questions(other) and answered & _numbers(other.list_of("questions")):
            return iter(())
    for other in _beside(look.path, "annotations", "questions"):
        if is_questions(other):
            return read_questions(other)
    raise ValueError(f"{look.path} holds answers alone; name the file of their questions, too.")


def _others(look: Look) -> Iterator[Look]:
    """The other JSON files of the data set."""
    paths = (path for path in look.others if path.suffix.lower() == ".json" and path != look.path)
    return (Look(path, look.others) for path in paths)


def _beside(path: Path, old: str, new: str) -> Iterator[Look]:
    """The file of the other kind beside one of questions or answers: v2_mscoco_train2014_annotations.json, for example,
    belongs to v2_OpenEnded_mscoco_train2014_questions.json.
    """

    def core(name: str, word: str) -> str:
        return KIND.sub("", name).replace(word, "")

    for other in sorted(path.parent.glob(f"*{new}*.json")):
        if core(other.name, new) == core(path.name, old):
            yield Look(other, [path])


def _numbers(entries: list[Any] | None) -> set[int | str]:
    """The numbers of questions in a list of questions or of answers."""
    numbers = (entry.get("question_id") for entry in entries or [] if isinstance(entry, dict))
    return {number for number in numbers if isinstance(number, int | str)}


def _answers(look: Look) -> dict[Any, tuple[list[Any], Any]]:
    """Texts and type of answers by the question's number; what is wrong with them is found with the question."""
    found = {}
    for entry in look.list_of("annotations") or []:
        if isinstance(entry, dict) and isinstance(entry.get("answers"), list):
            texts = [one.get("answer") if isinstance(one, dict) else one for one in entry["answers"]]
            if isinstance(entry.get("question_id"), int | str):
                found[entry["question_id"]] = texts, entry.get("answer_type")
    return found


def _coco(number: int, *splits: str) -> tuple[str, ...]:
    """The names that a picture of COCO has: of 2014 and 2015 with its split, of 2017 without."""
    return (*(f"COCO_{split}_{number:012}.jpg" for split in splits), f"{number:012}.jpg")


def is_aokvqa(look: Look) -> bool:
    """An array of questions with `choices`, and `direct_answers` but for testing."""
    return look.opening == "[" and {"question_id", "image_id", "question", "choices"} <= look.entry.keys()


def read_aokvqa(look: Look) -> Iterator[Item]:
    """Yield the questions with the ten answers of people."""
    return each(numbered(look.array()), _aokvqa)


def _aokvqa(entry: Any) -> dict[str, Any]:
    number = field(entry, "image_id", int)
    fields = {name: entry.get(name) for name in ("question", "question_id", "split")}
    fields |= {"image": _coco(number, *COCO), "image_id": number, "dataset": "vqa"}
    return {**fields, "answer": entry.get("direct_answers")}


def is_genome(look: Look) -> bool:
    """An array of pictures with `qas`, their questions and answers."""
    return look.opening == "[" and "qas" in look.entry


def read_genome(look: Look) -> Iterator[Item]:
    """Yield the questions of each picture."""
    return each(numbered(look.array()), _genome)


def _genome(entry: Any) -> list[dict[str, Any]]:
    number = entry.get("id", entry.get("image_id")) if isinstance(entry, dict) else None
    found = []
    for pair in field(entry, "qas", list):
        picture = field({"image_id": number, **pair} if isinstance(pair, dict) else pair, "image_id", int)
        fields = {"image": (f"{picture}.jpg",), "image_id": picture, "dataset": "vg", "question_id": pair.get("qa_id")}
        found.append({**fields, "question": pair.get("question"), "answer": pair.get("answer")})
    return found
