"""What a server can be asked: one row each, with its fields, how requests are checked and how they are computed.

To add one, add a row and its functions in `computing.py`; the API, its documentation and the metrics follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blip_core.generation.options import GenerationConfig
from blip_core.lazy import Function
from blip_core.serving.served_models import Models
from blip_core.validators import flag, text, whole_number

MOST = 16
"""The most beams, and the most texts of a picture."""
HIDDEN = {"return_dict_in_generate", "output_scores", "bos_token_id", "eos_token_id", "pad_token_id", "prompt_ids"}
"""Options of `generate` that are for programs: results have scores, and a prompt is given in words."""
GENERATION = {row.name: row for row in GenerationConfig.options() if row.name not in HIDDEN}
SEED = "seed"


@dataclass(frozen=True)
class Field:
    """A field of a request.

    Args:
        name: Its name.
        meaning: What it is, for the documentation.
        check: Raises `ValueError` for a value that cannot work, and returns it as the task takes it.
        own: Whether requests that differ in it may share a batch.
        required: Whether it must be there.
        kind: Its type in JSON Schema.
    """

    name: str
    meaning: str
    check: Callable[[str, Any], Any]
    own: bool = False
    required: bool = False
    kind: str | tuple[str, ...] = "string"


@dataclass(frozen=True)
class Task:
    """A row of `TASKS`.

    Args:
        name: Its name, and the last part of its address.
        needs: The model that it takes, an attribute of `Models`.
        title: What it does.
        fields: Its fields, beside the picture and the options of generation.
        check: Refuses values that the model cannot take, before they wait: `check(models, values, picture)`,
            with whether a picture is there.
        compute: Computes requests of one batch: `compute(models, asks)`, a dictionary for each.
        picture: Whether a picture must be there; else it may.
        generates: Whether it has the options of `generate`.
    """

    name: str
    needs: str
    title: str
    fields: tuple[Field, ...]
    check: Callable[[Models, dict[str, Any], bool], None]
    compute: Callable[[Models, Sequence[Ask]], list[dict[str, Any]]]
    picture: bool = True
    generates: bool = False


@dataclass
class Ask:
    """A request: the task, its values by name, the picture, and where new tokens go that are wanted at once."""

    task: Task
    values: dict[str, Any]
    pixels: np.ndarray | None = None
    name: str | None = None
    listener: Callable[[dict[str, Any]], None] | None = None
    shared: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        own = {row.name for row in self.task.fields if row.own}
        self.shared = {name: value for name, value in self.values.items() if name not in own}

    @property
    def key(self) -> tuple[str, str, bool]:
        """What a batch has in common."""
        return self.task.name, json.dumps(self.shared, sort_keys=True), self.listener is not None


def texts(most: int, length: int = 2000) -> Callable[[str, Any], list[str] | str]:
    """A check of one text or a list of them; an answer is a list where a list was given."""

    def check(name: str, value: Any) -> list[str] | str:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"{name} must be a text or a list of texts, got {type(value).__name__}.")
        if len(listed) > most:
            raise ValueError(f"{name} has {len(listed)} texts, more than {most}; ask in parts.")
        for one in listed:
            if not one.strip():
                raise ValueError(f"{name} has an empty text; say it in words.")
            if len(one) > length:
                raise ValueError(f"{name} has a text of {len(one)} characters, more than {length}; shorten it.")
        return listed if isinstance(value, list) else str(value)

    return check


def between(least: int, most: int) -> Callable[[str, Any], int]:
    """A check of whole numbers."""
    return lambda name, value: int(whole_number(name, value, least, most))


def prompt(name: str, value: Any) -> str:
    """Check what captions begin with, which may be nothing."""
    return "" if text(name, value) == "" else str(texts(1)(name, value))


def listed(name: str, value: Any) -> list[str]:
    """Check a list of choices; a single one is a list, too."""
    found = texts(1000)(name, value)
    return [found] if isinstance(found, str) else found


STREAM = Field("stream", "send each token at once, as server-sent events; not with beams", flag, kind="boolean")
TASKS: dict[str, Task] = {}


def register(task: Task) -> None:
    """Add a row to the table, or replace the one of the same name."""
    TASKS[task.name] = task


def parse_values(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked values of a request.

    Raises `ValueError` for a field or an option that the task does not have, naming the nearest, for one that is
    missing and for a value that cannot work.
    """
    rows = {row.name: row for row in task.fields}
    options = {**GENERATION, SEED: None} if task.generates else {}
    for name in given:
        if name not in rows and name not in options:
            raise ValueError(unknown(name, [*rows, *options], task))
    for row in task.fields:
        if row.required and row.name not in given:
            raise ValueError(f"{row.name} is missing: {row.meaning}.")
    values = {name: rows[name].check(name, value) if name in rows else value for name, value in given.items()}
    for name in ("num_beams", "num_return_sequences"):
        if name in values and name in options:
            whole_number(name, values[name], 1, MOST)
    if values.get(SEED) is not None and SEED in options:
        whole_number(SEED, values[SEED])
    return values


def unknown(name: str, known: Sequence[str], task: Task) -> str:
    """Say that a task has no such field or option, and which is nearest."""
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    hint = f"the nearest is {close[0]}" if close else f"it takes {', '.join(['image', *known])}"
    return f"There is no option {name!r:.60} of {task.name}; {hint}."


def _own(name: str) -> Function:
    return Function(f"blip_core.serving.computing:{name}")


for _row in (
    Task(
        "caption", "captioner", "Say what a picture shows.",
        (Field("prompt", "what the caption begins with", prompt),
         Field("keep_prompt", "whether the prompt is part of the caption", flag, kind="boolean"), STREAM),
        _own("check_caption"), _own("caption"), generates=True,
    ),
    Task(
        "answer", "answerer", "Answer questions about a picture, in the model's own words or from a list.",
        (Field("question", "a question, or a list of questions", texts(32), own=True, required=True,
               kind=("string", "array")),
         Field("choices", "answers to choose from", listed, kind="array"), STREAM),
        _own("check_answer"), _own("answer"), generates=True,
    ),
    Task(
        "match", "matcher", "Say how well texts describe a picture.",
        (Field("text", "a text, or a list of texts", texts(256), own=True, required=True, kind=("string", "array")),),
        _own("check_nothing"), _own("match"),
    ),
    Task(
        "embed", "matcher", "Return features of a picture, of texts, or of both, to store and compare.",
        (Field("text", "a text, or a list of texts", texts(256), own=True, kind=("string", "array")),),
        _own("check_embed"), _own("embed"), picture=False,
    ),
    Task(
        "search", "searcher", "Find the pictures of the index that fit a text, or that look like a picture.",
        (Field("text", "what to look for, in words", texts(1), own=True),
         Field("top", "how many pictures to find (10)", between(1, 100), kind="integer"),
         Field("rerank", "how many of the best to match one by one (16; with a text)", between(0, 100),
               kind="integer")),
        _own("check_search"), _own("search"), picture=False,
    ),
):  # fmt: skip
    register(_row)
