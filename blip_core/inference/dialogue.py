"""Visual dialogue: questions about a picture after others and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.generation.scores import softmax
from blip_core.inference.labels import tell_apart
from blip_core.inference.loaded_model import split
from blip_core.inference.matcher import Matcher
from blip_core.inference.results import Answer
from blip_core.processing.processor import BlipProcessor

Turns = Sequence[tuple[str, str]]


def after_history(history: Turns, text: str) -> str:
    """Return a text behind the questions and answers before it, all joined by spaces.

    A question answerer generates an answer after a history if it is asked so: `answerer(picture, after_history(...))`.

    Example:
        >>> after_history([("what is it?", "a fox")], "what color is it?")
        'what is it? a fox what color is it?'
    """
    return " ".join([*(part for turn in history for part in turn), text])


class Dialogue(Matcher):
    """Answer a question in a conversation about a picture with the best of some answers.

    The matching head judges the history, the question and each answer, grounded in the picture and in its caption.
    Source: BLIP section 5.5; the authors did not publish their program, and how the turns are joined is ours. A model
    must be trained for it, with `caption_ids` and `labels` (`docs/objectives.md`).

    Example:
        >>> from blip_core.inference.dialogue import Dialogue
        >>> dialogue = Dialogue.from_pretrained()
        >>> said = dialogue("tests/data/emoji/1f98a.png", "what is it?", ["fox", "car"], caption="orange face")
        >>> [choice["answer"] for choice in said.choices] == [said.text, ({"fox", "car"} - {said.text}).pop()]
        True
    """

    def __init__(self, model: Any, processor: BlipProcessor):
        super().__init__(model, processor)
        if not hasattr(model, "with_caption"):
            raise ValueError(f"{self.engine.title} reads no captions beside pictures; use another engine.")

    def __call__(  # type: ignore[override]  # other arguments
        self,
        picture: Any,
        question: str,
        choices: Sequence[str],
        *,
        caption: str,
        history: Turns = (),
        batch_size: int = 8,
    ) -> Answer:
        """Choose the best of some answers.

        Args:
            picture: One picture in any form that the processor takes.
            question: The question.
            choices: The answers to choose from.
            caption: What the picture shows, in a sentence.
            history: The questions before this one with their answers, from the first on.
            batch_size: How many answers the model gets at once.

        Returns:
            The best answer. Its `choices` has all of them, best first, each with `answer` and `itm`, the probability
            that it is right, by itself; `confidence` is the best one's.

        Raises:
            OSError: For a picture that cannot be read.
            ValueError: If there are no choices, a choice has no tokens, or history, question and answer are too long.
        """
        listed = tell_apart("choices", choices, self.processor)
        states, said = self.encode(self.read(picture)[None]), self.tokens([caption])
        captioned = {"caption_ids": said["input_ids"], "caption_attention_mask": said["attention_mask"]}
        logits = []
        for part in split(listed, batch_size):
            texts = self.tokens([after_history(history, f"{question} {answer}") for answer in part])
            output = self._call(self.model, {"image_embeds": states, **texts, **captioned})
            logits.append(self._array(output.itm_score).astype(np.float64))
        shares = softmax(np.concatenate(logits))[:, 1]
        order = (-shares).argsort(kind="stable").tolist()
        found = [{"answer": listed[i], "itm": float(shares[i])} for i in order]
        return Answer(picture, found[0]["answer"], confidence=found[0]["itm"], question=question, choices=found)
