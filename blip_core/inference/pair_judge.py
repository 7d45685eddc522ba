"""Judging sentences about pictures: whether they are true of two, and of which class they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blip_core.generation.scores import softmax
from blip_core.inference.loaded_model import LoadedModel


class PairJudge(LoadedModel):
    """Say whether sentences about two pictures each are true."""

    head = "BlipForNLVR"

    def __call__(self, pixels: np.ndarray, tokens: Mapping[str, np.ndarray]) -> np.ndarray:
        """Judge sentences.

        Args:
            pixels: Prepared pictures, float32 (sentences, 2, 3, height, width).
            tokens: The `tokens` of the sentences.

        Returns:
            The probability that each is true, float64 (sentences,).
        """
        output = self._call(self.model, {"pixel_values": pixels, **tokens})
        return softmax(self._array(output.logits))[:, 1]


class ClassJudge(LoadedModel):
    """Sort sentences with pictures into classes."""

    head = "BlipForClassification"

    def __call__(self, pixels: np.ndarray, tokens: Mapping[str, np.ndarray]) -> np.ndarray:
        """Judge sentences.

        Args:
            pixels: Prepared pictures, float32 (sentences, 3, height, width).
            tokens: The `tokens` of the sentences.

        Returns:
            The probability of each class, float64 (sentences, classes).
        """
        output = self._call(self.model, {"pixel_values": pixels, **tokens})
        return softmax(self._array(output.logits))
