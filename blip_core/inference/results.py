"""What the classes of this package return: one small record for each picture, and how it is written as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from blip_core.inference.attribution import Found, find_box
from blip_core.inference.heatmaps import draw_maps
from blip_core.jobs.read_ahead import in_one_line


def picture_name(picture: Any) -> str | None:
    """The path or address of a picture, as far as it has one."""
    if isinstance(picture, str | os.PathLike):
        name = os.fsdecode(picture)
        return None if name.startswith("data:") else name
    found = getattr(picture, "filename", None) or getattr(picture, "name", None)  # of PIL images; of open files
    return found if isinstance(found, str) else None


@dataclass(frozen=True, eq=False)
class Result:
    """What is known of a picture.

    Attributes:
        picture: The picture as it was given.
        error: What was wrong with it, where it could not be read; all other fields are then None.
    """

    picture: Any

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints: `image`, and the result or `error`."""
        error = getattr(self, "error", None)
        image = {"image": picture_name(self.picture)}
        return {**image, "error": in_one_line(error)} if error is not None else {**image, **self._fields()}

    def _fields(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class GeneratedText(Result):
    """A text that a model wrote about a picture.

    Attributes:
        text: The text, without special tokens.
        confidence: The geometric mean of the probabilities of its tokens, 0 to 1, by which long and short texts can be
            compared; of an answer that was chosen, its probability among the choices.
        log_prob: The natural logarithm of the probability of the text after its prompt, its end included, under the
            model's own distribution.
        tokens: The tokens that `log_prob` is of.
        token_log_probs: The natural logarithm of the probability of each of them.
    """

    text: str | None = None
    confidence: float | None = None
    log_prob: float | None = None
    tokens: list[str] | None = None
    token_log_probs: list[float] | None = None

    def scores(self) -> dict[str, Any]:
        """Return how sure the model is, by the names of the fields; what is not known is left out."""
        names = ("confidence", "log_prob", "tokens", "token_log_probs")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, eq=False)
class Caption(GeneratedText):
    """A caption of a picture.

    Attributes:
        others: With `num_return_sequences` above 1, the other captions of this picture, from the best on.
    """

    others: tuple[Caption, ...] = ()
    error: Exception | None = None

    def _fields(self) -> dict[str, Any]:
        others = {"others": [{"caption": one.text, **one.scores()} for one in self.others]} if self.others else {}
        return {"caption": self.text, **self.scores(), **others}


@dataclass(frozen=True, eq=False)
class Answer(GeneratedText):
    """The answer to a question about a picture.

    Attributes:
        question: The question.
        choices: Where the answer was chosen from a list, all of the list from the likeliest on, each with `answer`,
            `probability` (0 to 1, of sum 1 over the list) and `log_prob`.
    """

    question: str = ""
    choices: list[dict[str, Any]] | None = None
    error: Exception | None = None

    def _fields(self) -> dict[str, Any]:
        said = self.scores() if self.choices is None else {"choices": self.choices}
        return {"question": self.question, "answer": self.text, **said}


@dataclass(frozen=True, eq=False)
class Match(Result):
    """How well texts describe a picture.

    Attributes:
        texts: The texts.
        itm: The probability that each matches, 0 to 1, by the head that reads picture and text together; float64
            (texts,).
        itc: The cosine similarity of the features of picture and text, -1 to 1; float32 (texts,).
        logits: Those of the matching head, float64 (texts, 2); index 1 is "they match".
    """

    texts: tuple[str, ...] = ()
    itm: np.ndarray | None = None
    itc: np.ndarray | None = None
    logits: np.ndarray | None = None
    error: Exception | None = None

    def _fields(self) -> dict[str, Any]:
        return {"texts": self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary for each text, with `text`, `itm` and `itc`."""
        assert self.itm is not None
        assert self.itc is not None
        pairs = zip(self.texts, self.itm.tolist(), self.itc.tolist(), strict=True)
        return [{"text": text, "itm": itm, "itc": itc} for text, itm, itc in pairs]


@dataclass(frozen=True, eq=False)
class Classes(Result):
    """Which of some labels a picture shows.

    Attributes:
        labels: The labels, best first.
        probabilities: The probability of each among all labels, 0 to 1, float64 (labels,).
        itm: Where it was asked for, the probability that picture and label match, by which the labels are then
            ordered, 0 to 1, float64 (labels,).
    """

    labels: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None
    itm: np.ndarray | None = None
    error: Exception | None = None

    @property
    def label(self) -> str | None:
        """The best label."""
        return self.labels[0] if self.labels else None

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary for each label, best first, with `label`, `probability` and perhaps `itm`."""
        assert self.probabilities is not None
        rows = [
            {"label": label, "probability": value}
            for label, value in zip(self.labels, self.probabilities.tolist(), strict=True)
        ]
        return (
            [row | {"itm": itm} for row, itm in zip(rows, self.itm.tolist(), strict=True)]
            if self.itm is not None
            else rows
        )

    def _fields(self) -> dict[str, Any]:
        return {"label": self.label, "labels": self.rows()}


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """Where in a picture a model finds each word of a text.

    Attributes:
        text: The text.
        itm: The probability that picture and text match, 0 to 1.
        words: The words of the text.
        maps: What each word goes by, at least 0, float32 (words, rows, columns), one value for each patch.
        strengths: How much each map stands out, from 0 to 1 for the strongest, float32 (words,).
        peaks: Where each map is highest, in pixels (x, y) of the picture; None for a map that is the same everywhere.
        method: "gradcam" or "attention".
        layer: The layer of the text encoder whose attention is mapped, from 0.
        image: The picture as it was read, RGB.
    """

    text: str = ""
    itm: float | None = None
    words: tuple[str, ...] = ()
    maps: np.ndarray | None = None
    strengths: np.ndarray | None = None
    peaks: tuple[tuple[float, float] | None, ...] = ()
    method: str = "gradcam"
    layer: int = 0
    image: Image.Image | None = None
    error: Exception | None = None

    @property
    def boxes(self) -> tuple[Found | None, ...]:
        """For each word the `box` (x, y, width, height) around the highest part of its map, in pixels, and its `score`.

        The score is the share of the whole map, 0 to 1, that lies in the box; None for a map that is the same
        everywhere.
        """
        assert self.image is not None
        assert self.maps is not None
        return tuple(find_box(heat, self.image.size) for heat in self.maps)

    def draw(self, font: str | None = None, boxes: bool = False) -> Image.Image:
        """Draw the maps over the picture, a panel for each word.

        Args:
            font: A TrueType file, for words in scripts that Pillow's own letters lack.
            boxes: Whether to draw the box of each word, too.

        Returns:
            An RGB image.

        Raises:
            OSError: For a font that cannot be read.
        """
        assert self.image is not None
        assert self.maps is not None
        drawn = [found and found.box for found in self.boxes] if boxes else ()
        return draw_maps(self.image, f"{self.text}  (match {self.itm:.3f})", self.words, self.maps, font, drawn)

    def _fields(self) -> dict[str, Any]:
        assert self.strengths is not None
        words = [
            {"word": word, "strength": strength, "peak": peak}
            for word, strength, peak in zip(self.words, self.strengths.tolist(), self.peaks, strict=True)
        ]
        return {"text": self.text, "itm": self.itm, "method": self.method, "layer": self.layer, "words": words}
