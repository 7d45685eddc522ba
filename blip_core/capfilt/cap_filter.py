"""A captioner and a filter: pictures and web captions in, scored captions out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_core.datasets import Picture, clean_caption
from blip_core.generation.prompts import prompt_tokens
from blip_core.inference import Captioner, Matcher
from blip_core.inference.answer_tries import probabilities
from blip_core.inference.identity import hash_weights
from blip_core.inference.loaded_model import split
from blip_core.processing.picture_files import load_image
from blip_core.tasks import get_task
from blip_core.validators import check_settings, number, setting, text, whole_number

WEB, SYNTHETIC = "web", "synthetic"
PROMPT = "a picture of"
DIGITS = 4
"""Scores are rounded to so many: below, frameworks and batches of other sizes differ."""


@dataclass(frozen=True)
class Captioning:
    """How synthetic captions are written.

    `beams`: None draws them by nucleus sampling from the likeliest tokens of sum `top_p`, as in the paper; a number
    searches for the likeliest with so many beams. `prompt` is what the captioner goes on with, and no part of a
    caption: unless given, what it was trained with, or "a picture of" where it does not tell. Lengths are the
    original's, 5 to 20 tokens with a prompt of four. Raises `ValueError` for values that cannot be.
    """

    beams: int | None = setting(None, whole_number, least=1, optional=True)
    top_p: float = setting(0.9, number, above=0, most=1)
    seed: int = setting(0, whole_number)
    prompt: str | None = setting(None, text, optional=True)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `generate`. Source: the original's `BLIP_Decoder.generate`."""
        length = {"min_new_tokens": 1, "max_new_tokens": 16}
        if self.beams is not None:
            return {**length, "num_beams": self.beams, "do_sample": False}
        return {**length, "num_beams": 1, "do_sample": True, "top_p": self.top_p, "repetition_penalty": 1.1}

    def item_seed(self, digest: str) -> int:
        """The seed of the picture with this hash, the same wherever it lies and whatever is captioned with it."""
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {digest}".encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, eq=False)
class PictureRead:
    """A picture as the models take it: the hash of its bytes, and float32 (3, height, width) for each encoder."""

    digest: str
    pixels: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Scored:
    """A caption, cleaned; where it is from, "web" or "synthetic"; the probability that it matches, 0 to 1."""

    caption: str
    source: str
    score: float


class CapFilter:
    """A captioner and a filter, which is a matcher, for CapFilt.

    Where the vision encoders of both have the same weights, as in two heads of one checkpoint of pre-training, a
    picture is encoded once, otherwise once by each.

    Args:
        captioner: Writes captions.
        matcher: Says whether captions match.
        captioning: How captions are written.
    """

    def __init__(self, captioner: Captioner, matcher: Matcher, captioning: Captioning):
        self.captioner, self.matcher, self.captioning = captioner, matcher, captioning
        prepared = [use.processor.image_processor.to_dict() for use in (captioner, matcher)]
        self.shared = prepared[0] == prepared[1] and self._vision(captioner.model) == self._vision(matcher.model)

    @staticmethod
    def _vision(model: Any) -> str:
        settings = json.dumps(model.config.vision_config.to_dict(), sort_keys=True, default=str)
        digest = hashlib.blake2b(settings.encode())
        hash_weights(digest, model, ("vision_model.",))
        return digest.hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """What results depend on in each model, as a hash of its weights and the settings of its processor."""
        return {"captioner": self.captioner.identity, "filter": self.matcher.identity}

    @property
    def width(self) -> int:
        """The number of values of a feature, F."""
        return self.matcher.width

    def read(self, picture: Picture) -> PictureRead:
        """Read and prepare a picture; threads may call it.

        Raises `OSError` and `ValueError` as `Picture.load` does, and `ValueError` for a line or a dot: the web counts
        its visitors by such pictures.
        """
        data = picture.read()
        image = load_image(data, name=picture.name)
        if min(image.size) == 1:
            raise ValueError(f"{picture.name} has {image.width} x {image.height} pixels, which show nothing")
        processors = [use.processor for use in (self.captioner, self.matcher)][: 1 if self.shared else 2]
        pixels = tuple(processor(images=image, return_tensors="np")["pixel_values"][0] for processor in processors)
        return PictureRead(hashlib.blake2b(data, digest_size=16).hexdigest(), pixels)

    def __call__(
        self, pictures: Sequence[PictureRead], captions: Sequence[Sequence[str]]
    ) -> tuple[list[list[Scored]], np.ndarray]:
        """Score the cleaned web captions of each picture and a synthetic one, which comes last.

        It may be empty; then its score is 0. With them come the features of the pictures by which the filter compares
        them, L2-normalised float16 (pictures, F).
        """
        states = self.captioner.encode([picture.pixels[0] for picture in pictures])
        written = self._write(states, [picture.digest for picture in pictures])
        if not self.shared:
            states = self.matcher.encode([picture.pixels[1] for picture in pictures])
        texts = [[*web, synthetic] for web, synthetic in zip(captions, written, strict=True)]
        pairs = [(row, text) for row, group in enumerate(texts) for text in group if text]
        scores = iter(self._match(states, pairs, len(pictures)))
        scored = [
            [
                Scored(text, WEB if number < len(group) - 1 else SYNTHETIC, next(scores) if text else 0.0)
                for number, text in enumerate(group)
            ]
            for group in texts
        ]
        return scored, self.matcher.project(states).astype(np.float16)

    def _write(self, states: np.ndarray, digests: Sequence[str]) -> list[str]:
        """One caption for each picture, cleaned, without the prompt."""
        prompt, begin = self.captioning.prompt, self.captioner.model.generation_config.prompt_ids
        if prompt is not None or begin is None:
            begin = prompt_tokens(PROMPT if prompt is None else prompt, self.captioner.processor)
        seeds = [self.captioning.item_seed(digest) for digest in digests] if self.captioning.beams is None else None
        written = self.captioner.write(
            {"image_embeds": states}, **self.captioning.options, prompt_ids=begin, seed=seeds
        )
        return [clean_caption(caption.text or "") for caption in written]

    def _match(self, states: np.ndarray, pairs: Sequence[tuple[int, str]], size: int) -> list[float]:
        """The probability of a match of each pair of a picture's number and a text, `size` pairs at a time."""
        found: list[float] = []
        for part in split(pairs, size):
            rows, texts = zip(*part, strict=True)
            tokens = self.matcher.tokens(texts, get_task("retrieval").max_length)
            logits = self.matcher.match(states[list(rows)], tokens)
            if not np.isfinite(logits).all():
                raise ValueError("The filter gave scores that are not finite: its weights are damaged; check them.")
            found += probabilities(logits)[:, 1].tolist()
        return [round(score, DIGITS) for score in found]
