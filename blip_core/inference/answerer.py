"""Answering questions about pictures, in the model's own words or from a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from blip_core.generation.scores import softmax
from blip_core.inference.labels import tell_apart
from blip_core.inference.loaded_model import split
from blip_core.inference.results import Answer
from blip_core.inference.text_writer import TextWriter


class Answerer(TextWriter):
    """Answer questions about pictures.

    Example:
        >>> from blip_core import Answerer
        >>> answerer = Answerer.from_pretrained()
        >>> answerer("tests/data/emoji/1f98a.png", "what color is it mostly?").text
        'orange'
        >>> answerer.choose("tests/data/emoji/1f98a.png", "what color is it mostly?", ["blue", "orange"]).text
        'orange'
    """

    head = "BlipForQuestionAnswering"

    def __call__(
        self, pictures: Any, questions: str | Sequence[str], *, batch_size: int = 8, frames: int = 1, **options: Any
    ) -> Any:
        """Answer one question or several about one picture or many, each picture being encoded once.

        Args:
            pictures: One picture in any form that the processor takes, or any iterable of pictures.
            questions: One question, or a list of questions, all of which are asked about each picture.
            batch_size: How many pictures are read ahead, and how many questions the model gets at once.
            frames: With 2 or more, pictures may be paths of videos: a question is about so many frames of each, spread
                evenly, whose tokens it attends to in a row. Source: the paper's zero-shot transfer to videos.
            **options: Those of `generate`, such as `num_beams` or `max_new_tokens`.

        Returns:
            For one question an `Answer`, for a list a list of answers; for many pictures an iterator of these, in
            their order, in which a picture that cannot be read has `error` in each answer.

        Raises:
            OSError: For one picture that cannot be read.
            ValueError: For questions that are too long, and options that cannot work.
        """
        self.check_options(options)
        parts = self._parts(questions, batch_size)

        def answer(states: np.ndarray, picture: Any) -> Iterator[Answer]:
            for asked, tokens in parts:
                yield from self.write(states, asked, tokens, picture, **options)

        return self._answers(pictures, questions, batch_size, answer, frames)

    def choose(
        self,
        pictures: Any,
        questions: str | Sequence[str],
        choices: Sequence[str],
        *,
        batch_size: int = 8,
        frames: int = 1,
    ) -> Any:
        """Answer with the likeliest of some choices, all of which are scored exactly.

        Args:
            pictures: As in a call.
            questions: As in a call.
            choices: The answers to choose from.
            batch_size, frames: As in a call.

        Returns:
            What a call returns. `choices` of each answer has all of them with their probabilities: the softmax of the
            log-probabilities of the whole answers.

        Raises:
            OSError: For one picture that cannot be read.
            ValueError: For no choices, and for one of which the model reads nothing.
        """
        listed = tell_apart("choices", choices, self.processor)
        parts, encoded = self._parts(questions, batch_size), self.tokens(listed)

        def answer(states: np.ndarray, picture: Any) -> Iterator[Answer]:
            for asked, tokens in parts:
                yield from self.pick(states, asked, listed, tokens, encoded, picture)

        return self._answers(pictures, questions, batch_size, answer, frames)

    def rank(
        self,
        states: np.ndarray,
        tokens: Mapping[str, np.ndarray],
        answers: Mapping[str, np.ndarray],
        candidates: int = 128,
    ) -> np.ndarray:
        """Choose from a long list as the original does: by the first token, then by the loss of the best candidates.

        Args:
            states: Image embeddings of `encode`, one for each question or one for all.
            tokens: The `tokens` of the questions.
            answers: The `tokens` of the answers to choose from.
            candidates: How many answers with the likeliest first token are compared.

        Returns:
            The number of the best answer to each question, int64 (questions,).
        """
        listed = {"answer_ids": answers["input_ids"], "answer_attention_mask": answers["attention_mask"]}
        found = self._call(self.model.rank_answers, {"image_embeds": states, **tokens, **listed}, k=candidates)
        return self.engine.to_numpy(found.best)

    def write(
        self,
        states: np.ndarray,
        questions: Sequence[str],
        tokens: Mapping[str, np.ndarray] | None = None,
        picture: Any = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer questions about encoded pictures.

        Args:
            states: Image embeddings of `encode`, one for each question or one for all.
            questions: The questions.
            tokens: Those of `tokens`, where they are there already.
            picture: The picture of the answers, as results name it.
            **options: Those of `generate`.
        """
        tokens = self.tokens(questions) if tokens is None else tokens
        written = self._generate({"image_embeds": states, **tokens}, **options)
        return [Answer(picture, **one, question=q) for q, one in zip(questions, written, strict=True)]

    def pick(
        self,
        states: np.ndarray,
        questions: Sequence[str],
        choices: Sequence[str],
        tokens: Mapping[str, np.ndarray] | None = None,
        encoded: Mapping[str, np.ndarray] | None = None,
        picture: Any = None,
    ) -> list[Answer]:
        """Answer questions about encoded pictures with the likeliest of some choices.

        Args:
            states, questions, tokens, picture: As of `write`.
            choices: The answers to choose from, which differ to the model (`tell_apart`).
            encoded: The `tokens` of the choices, where they are there already.
        """
        tokens = self.tokens(questions) if tokens is None else tokens
        encoded = self.tokens(choices) if encoded is None else encoded
        answers = {"answer_ids": encoded["input_ids"], "answer_attention_mask": encoded["attention_mask"]}
        output = self._call(self.model.score_texts, {"image_embeds": states, **tokens, **answers})
        answered = []
        for question, row in zip(questions, self.engine.to_numpy(output.log_probs), strict=True):
            shares, order = softmax(row), (-row).argsort(kind="stable").tolist()
            found = [{"answer": choices[i], "probability": float(shares[i]), "log_prob": float(row[i])} for i in order]
            best = {"confidence": found[0]["probability"], "log_prob": found[0]["log_prob"]}
            answered.append(Answer(picture, found[0]["answer"], **best, question=question, choices=found))
        return answered

    def _parts(self, questions: str | Sequence[str], size: int) -> list[tuple[Sequence[str], dict[str, np.ndarray]]]:
        """The questions in parts of `size`, each with its tokens."""
        asked = [questions] if isinstance(questions, str) else list(questions)
        if not asked or not all(isinstance(question, str) and question.strip() for question in asked):
            raise ValueError("A question is missing or empty; ask at least one, in words.")
        return [(part, self.tokens(part)) for part in split(asked, size)]

    def _answers(self, pictures: Any, questions: str | Sequence[str], batch_size: int, answer: Any, frames: int) -> Any:
        single = isinstance(questions, str)

        def work(some: list[Any], pixels: Any) -> Iterator[Any]:
            encoded = self.encode(pixels)[:, None] if frames == 1 else self.item_states(pixels, batch_size)
            for states, picture in zip(encoded, some, strict=True):
                found = list(answer(states, picture))
                yield found[0] if single else found

        def failed(picture: Any, error: Exception) -> Any:
            asked = [questions] if isinstance(questions, str) else questions
            found = [Answer(picture, question=question, error=error) for question in asked]
            return found[0] if single else found

        return self._run(pictures, batch_size, work, failed, frames)
