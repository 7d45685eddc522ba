"""A matching model of either framework with pictures, videos and texts in, and NumPy arrays out.

Shapes: an *item* is the prepared frames of one picture or video, float32 (n, 3, height, width); a picture has n = 1.
T image tokens of a frame, W vision width, F = `config.image_text_hidden_size`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from blip_core.engines import engine_of
from blip_core.inference.identity import hash_weights
from blip_core.processing.processor import BlipProcessor
from blip_core.search.video import FRAMES, sample_frames

HEAD = "BlipForImageTextRetrieval"


class Matcher:
    """`BlipForImageTextRetrieval` or its TensorFlow twin, for search.

    A video is to ITC the mean of its frames' projections, normalised afterwards; to ITM it is the tokens of all its
    frames in a row. Source: the original's zero-shot text-to-video retrieval. `batch_size` is the number of frames
    that the vision encoder gets at once.
    Raises `ValueError` for another model.
    """

    def __init__(self, model: Any, processor: BlipProcessor, batch_size: int = 8):
        self.engine = engine_of(model)
        if not self.engine.has_head(model, HEAD):
            raise ValueError(f"Search needs a {HEAD}, got {type(model).__name__}.")
        self.model = model
        self.processor = processor
        self.batch_size = batch_size

    @property
    def width(self) -> int:
        """The number of values of a feature, F."""
        return self.model.config.image_text_hidden_size

    @cached_property
    def identity(self) -> str:
        """What the features of pictures depend on, as 32 hexadecimal digits; the same in both frameworks.

        It covers the weights and settings of the vision encoder and its projection, the image processor's settings
        and the precision: features may be compared where it is equal.
        """
        settings = [
            self.model.config.vision_config.to_dict(),
            self.processor.image_processor.to_dict(),
            self.engine.precision(self.model),
        ]
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
        hash_weights(digest, self.model, ("vision_model.", "vision_proj."))
        return digest.hexdigest()

    def read(self, path: str | os.PathLike[str], frames: int = FRAMES) -> np.ndarray:
        """Read and prepare a picture or video as an item. Raises `OSError` and `ValueError` as `sample_frames` does."""
        turn = self.processor.image_processor.apply_exif_orientation
        return self.processor(images=sample_frames(path, frames, turn), return_tensors="np")["pixel_values"]

    def image_features(self, items: Sequence[np.ndarray]) -> np.ndarray:
        """Items -> L2-normalised features (items, F), float32."""
        model = self.model
        with self.engine.no_gradients(model):
            projected = [self.engine.to_numpy(model.vision_proj(states[:, 0])) for states in self._encode(items)]
        frames = np.concatenate(projected).astype(np.float32)  # (all frames, F)
        means = np.stack([part.mean(axis=0) for part in split(frames, items)])
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)

    def text_features(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> L2-normalised features (texts, F), float32. Raises `ValueError` for texts that are too long."""
        with self.engine.no_gradients(self.model):
            return self.engine.to_numpy(self.model.get_text_features(**self._tokens(texts))).astype(np.float32)

    def embeds(self, items: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Items -> the image embeddings of each, (1, n T, W), for `match`."""
        with self.engine.no_gradients(self.model):
            states = np.concatenate([self.engine.to_numpy(part) for part in self._encode(items)])  # (all frames, T, W)
        return [part.reshape(1, -1, states.shape[-1]) for part in split(states, items)]

    def match(self, embeds: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The image embeddings (1, S, W) of one item, and texts -> logits (texts, 2) of ITM; index 1 is "they match".

        Each layer's cross-attention makes its keys and values once, however many texts there are.
        """
        with self.engine.no_gradients(self.model):
            output = self.model(image_embeds=self.engine.to_tensor(embeds, self.model), **self._tokens(texts))
        return self.engine.to_numpy(output.itm_score).astype(np.float64)

    def _encode(self, items: Sequence[np.ndarray]) -> list[Any]:
        """The vision encoder's output of all frames, in batches."""
        frames, size = np.concatenate(items), self.batch_size
        parts = [self.engine.to_tensor(frames[i : i + size], self.model) for i in range(0, len(frames), size)]
        return [self.model.vision_model(part).last_hidden_state for part in parts]

    def _tokens(self, texts: Sequence[str]) -> dict[str, Any]:
        encoded = self.processor(text=list(texts), padding=True, return_tensors="np")
        return {name: self.engine.to_tensor(encoded[name], self.model) for name in ("input_ids", "attention_mask")}


def split(frames: np.ndarray, items: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cut what was made of all frames, (all frames, ...), into what belongs to each item."""
    return np.split(frames, np.cumsum([len(item) for item in items])[:-1])
