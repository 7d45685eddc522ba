"""Zero-shot classification: pictures and labels in, the likeliest labels out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from blip_core.generation.scores import softmax
from blip_core.inference.labels import TEMPLATE, label_texts, tell_apart
from blip_core.inference.loaded_model import split
from blip_core.inference.matcher import Matcher
from blip_core.inference.results import Classes
from blip_core.validators import whole_number


class Classifier(Matcher):
    """Say which of some labels pictures show; a `Matcher`, called with labels.

    Example:
        >>> from blip_core import Classifier
        >>> classifier = Classifier.from_pretrained()
        >>> classifier("tests/data/emoji/1f98a.png", ["car", "fox", "house"], ["{}"]).label
        'fox'
    """

    def __call__(  # other arguments than a Matcher's
        self,
        pictures: Any,
        labels: Sequence[str],
        templates: Sequence[str] = (TEMPLATE,),
        *,
        top: int | None = None,
        itm: bool = False,
        batch_size: int = 8,
    ) -> Any:
        """Classify one picture or many, each label being encoded once.

        Args:
            pictures: One picture in any form that the processor takes, or any iterable of pictures.
            labels: The labels to choose from.
            templates: What labels are put into, each with one `{}`; the features of several are averaged.
            top: How many labels each result has; all unless given.
            itm: Whether these are put in order by the matching head, which is better and slower.
            batch_size: How many pictures, and how many labels, the model gets at once.

        Returns:
            A `Classes` for one picture; for many an iterator of them in their order, in which a picture that cannot be
            read has `error`.

        Raises:
            OSError: For one picture that cannot be read.
            ValueError: For no labels, labels of which the model reads nothing, and templates without one `{}`.
        """
        whole_number("top", top, 1, optional=True)
        label_texts(["x"], templates)  # refuses templates before the labels are read
        listed = tell_apart("labels", labels, self.processor)
        get = self.model.get_label_features
        parts = [self.tokens(label_texts(part, templates)) for part in split(listed, batch_size)]
        found = [self._array(self._call(get, part, templates=len(templates))) for part in parts]
        features = np.concatenate(found)  # (labels, F)

        def work(some: list[Any], pixels: np.ndarray) -> Iterator[Classes]:
            states = self.encode(pixels)
            shares = self._array(self._call(self.model.classify, {"image_embeds": states, "label_features": features}))
            for row, picture in enumerate(some):
                order = np.argsort(-shares[row], kind="stable")[:top]
                best = [listed[label] for label in order]
                matching = None
                if itm:
                    matching = self._matching(states[row : row + 1], best, templates, batch_size)
                    again = np.argsort(-matching, kind="stable")
                    order, matching, best = order[again], matching[again], [best[i] for i in again]
                yield Classes(picture, tuple(best), shares[row, order].astype(np.float64), matching)

        return self._run(pictures, batch_size, work, lambda picture, error: Classes(picture, error=error))

    def _matching(self, states: np.ndarray, labels: Sequence[str], templates: Sequence[str], size: int) -> np.ndarray:
        """The probability that a picture and each of these labels match, the mean over the templates."""
        logits = [self.match(states, label_texts(part, templates)) for part in split(labels, size)]
        result: np.ndarray = softmax(np.concatenate(logits))[:, 1].reshape(len(labels), -1).mean(axis=1)
        return result
