"""Matching pictures with texts, and the features by which both can be compared and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from blip_core.generation.scores import softmax
from blip_core.inference.identity import hash_weights
from blip_core.inference.loaded_model import LoadedModel, cut, is_one, split
from blip_core.inference.results import Match
from blip_core.jobs.read_ahead import read_batches

Texts = str | Sequence[str] | Mapping[str, np.ndarray]


class Matcher(LoadedModel):
    """Say how well texts describe pictures, by matching (ITM) and by similarity of features (ITC).

    Shapes below: an *item* is the prepared frames of one picture or video, float32 (n, 3, height, width); a picture has
    n = 1. T is the number of image tokens of a frame, W the vision width, F the width of features. A video is to ITC
    the mean of its frames' projections, normalised afterwards; to ITM it is the tokens of all its frames in a row.
    Source: the original's zero-shot text-to-video retrieval.

    Example:
        >>> from blip_core import Matcher
        >>> matcher = Matcher.from_pretrained()
        >>> match = matcher("tests/data/emoji/1f98a.png", ["fox", "red car"])
        >>> bool(match.itm[0] > match.itm[1])
        True
        >>> matcher.text_features(["fox", "red car"]).shape
        (2, 192)
    """

    head = "BlipForImageTextRetrieval"

    def __call__(self, pictures: Any, texts: str | Sequence[str], *, batch_size: int = 8) -> Any:
        """Match one picture or many with texts, each picture and each text being encoded once.

        Args:
            pictures: One picture in any form that the processor takes, or any iterable of pictures.
            texts: One text or several.
            batch_size: How many pictures are read ahead, and how many texts the model gets at once.

        Returns:
            A `Match` for one picture; for many an iterator of matches in their order, in which a picture that cannot be
            read has `error`.

        Raises:
            OSError: For one picture that cannot be read.
            ValueError: For no texts, and texts that are too long.
        """
        listed = (texts,) if isinstance(texts, str) else tuple(texts)
        if not listed:
            raise ValueError("There is no text to match; give at least one.")
        parts = [self.tokens(part) for part in split(listed, batch_size)]
        features = np.concatenate([self.text_features(part) for part in parts])

        def work(some: list[Any], pixels: np.ndarray) -> Any:
            states = self.encode(pixels)
            for row, (picture, feature) in enumerate(zip(some, self.project(states), strict=True)):
                logits = np.concatenate([self.match(states[row : row + 1], part) for part in parts])
                yield Match(picture, listed, softmax(logits)[:, 1], features @ feature, logits)

        return self._run(pictures, batch_size, work, lambda picture, error: Match(picture, listed, error=error))

    def image_features(self, pictures: Any, *, batch_size: int = 8) -> np.ndarray:
        """Encode pictures so that they can be stored and compared, with each other and with `text_features`.

        Args:
            pictures: One picture in any form that the processor takes, or any iterable of pictures.
            batch_size: How many pictures the model gets at once.

        Returns:
            L2-normalised features, float32 (pictures, F).

        Raises:
            OSError: For a picture that cannot be read.
            ValueError: For what is not a picture.
        """
        found = [np.empty((0, self.width), np.float32)]
        for batch in read_batches([pictures] if is_one(pictures) else pictures, batch_size, self.read):
            items = []
            for _, pixels in batch:
                if isinstance(pixels, Exception):
                    raise pixels
                items.append(pixels[None])
            found.append(self.item_features(items, batch_size))
        return np.concatenate(found)

    def text_features(self, texts: Texts) -> np.ndarray:
        """Encode texts so that they can be stored and compared with `image_features`.

        Args:
            texts: One text, several, or the `tokens` of several.

        Returns:
            L2-normalised features, float32 (texts, F).

        Raises:
            ValueError: For texts that are too long.
        """
        return self._array(self._call(self.model.get_text_features, self._tokens(texts)))

    @property
    def width(self) -> int:
        """The number of values of a feature, F."""
        result: int = self.model.config.image_text_hidden_size
        return result

    @cached_property
    def features_identity(self) -> str:
        """What the features of pictures depend on, as 32 hexadecimal digits; the same in every engine.

        It covers the weights and settings of the vision encoder and its projection, the settings of the image
        processor and the precision: features may be compared where it is equal.
        """
        settings = [
            self.model.config.vision_config.to_dict(),
            self.processor.image_processor.to_dict(),
            self.engine.precision(self.model),
        ]
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
        hash_weights(digest, self.model, ("vision_model.", "vision_proj."))
        return digest.hexdigest()

    def match(self, states: np.ndarray, texts: Texts) -> np.ndarray:
        """Match encoded pictures with texts.

        Args:
            states: Image embeddings: (1, S, W) of one picture or video for all texts, whose keys and values are then
                computed once however many texts there are, or (texts, S, W).
            texts: One text, several, or the `tokens` of several.

        Returns:
            The logits of ITM, float64 (texts, 2); index 1 is "they match".
        """
        output = self._call(self.model, {"image_embeds": states, **self._tokens(texts)})
        return self._array(output.itm_score).astype(np.float64)

    def project(self, states: np.ndarray) -> np.ndarray:
        """Return the L2-normalised features, float32 (B, F), of image embeddings (B, T, W)."""
        return self._array(self._call(self.model.get_image_features, {"image_embeds": states}))

    def item_features(self, items: Sequence[np.ndarray] | np.ndarray, batch_size: int = 8) -> np.ndarray:
        """Encode items, `batch_size` frames at a time -> L2-normalised features, float32 (items, F)."""
        with self.engine.no_gradients(self.model):
            states = (self._vision(frames) for frames in split(np.concatenate(list(items)), batch_size))
            projected = np.concatenate([self._array(self.model.vision_proj(part[:, 0])) for part in states])
        means = np.stack([part.mean(axis=0) for part in cut(projected, items)])
        result: np.ndarray = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return result

    def _tokens(self, texts: Texts) -> Mapping[str, np.ndarray]:
        if isinstance(texts, Mapping):
            return texts
        return self.tokens([texts] if isinstance(texts, str) else texts)
