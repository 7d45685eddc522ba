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
from blip_core.generation.scores import softmax
from blip_core.inference import Captioner, Matcher
from blip_core.inference.identity import hash_weights
from blip_core.inference.loaded_model import split
from blip_core.processing.picture_files import load_image
from blip_core.tasks import get_task
from blip_core.validators import check_settings, number, setting, text, whole_number

WEB, SYNTHETIC = "web", "synthetic"
PROMPT = "a picture of"
DIGITS = 4
"""Decimal places of scores; beyond them, frameworks and batch sizes differ."""


@dataclass(frozen=True)
class Captioning:
    """How synthetic captions are written: 1 to 16 new tokens, the original's 5 to 20 with a prompt of four.

    Args:
        beams: Beams of a beam search; None for nucleus sampling, as in the paper.
        top_p: The probability of the tokens that nucleus sampling draws from, in (0, 1].
        seed: Of the sampling, with the bytes of each picture.
        num_captions: Captions of each picture, of which the one with the highest score is kept; with beams, not more
            than these.
        prompt: The beginning that the captioner continues, not part of the caption. None for the one that it was
            trained with, or "a picture of" where the model does not tell.

    Raises:
        ValueError: For values out of range.
    """

    beams: int | None = setting(None, whole_number, least=1, optional=True)
    top_p: float = setting(0.9, number, above=0, most=1)
    seed: int = setting(0, whole_number)
    num_captions: int = setting(1, whole_number, least=1)
    prompt: str | None = setting(None, text, optional=True)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.beams is not None and self.num_captions > self.beams:
            raise ValueError(f"num_captions must not be above beams, got {self.num_captions} > {self.beams}.")

    @property
    def options(self) -> dict[str, Any]:
        """The options of `generate`. Source: the original's `BLIP_Decoder.generate`."""
        length = {"min_new_tokens": 1, "max_new_tokens": 16, "num_return_sequences": self.num_captions}
        if self.beams is not None:
            return {**length, "num_beams": self.beams, "do_sample": False}
        return {**length, "num_beams": 1, "do_sample": True, "top_p": self.top_p, "repetition_penalty": 1.1}

    def item_seed(self, digest: str) -> int:
        """Return the sampling seed for a picture's hash."""
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {digest}".encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, eq=False)
class PictureRead:
    """A picture as the models take it: the hash of its bytes, and float32 (3, height, width) for each encoder."""

    digest: str
    pixels: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Scored:
    """A cleaned caption, its source ("web" or "synthetic"), and the probability that it matches, 0 to 1."""

    caption: str
    source: str
    score: float


class CapFilter:
    """A captioner and a filter for CapFilt.

    Where both have equal vision encoders, as two heads of one pre-trained checkpoint do, a picture is encoded once.

    Args:
        captioner: Writes captions.
        matcher: The filter, which says whether captions match.
        captioning: How captions are written.
    """

    least: int | None = None
    """As of `load_image`, where both processors decode fast."""

    def __init__(self, captioner: Captioner, matcher: Matcher, captioning: Captioning):
        self.captioner, self.matcher, self.captioning = captioner, matcher, captioning
        prepared = [use.processor.image_processor.to_dict() for use in (captioner, matcher)]
        least = [use.processor.image_processor.least for use in (captioner, matcher)]
        known = [one for one in least if one is not None]
        self.least = max(known) if len(known) == len(least) else None
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

        Raises:
            OSError: As `Picture.load` does.
            ValueError: As `Picture.load` does, and for a picture one pixel high or wide, such as a tracking pixel.
        """
        data = picture.read()
        image = load_image(data, name=picture.name, least=self.least)
        if min(image.size) == 1:
            raise ValueError(f"{picture.name} has {image.width} x {image.height} pixels, which show nothing")
        processors = [use.processor for use in (self.captioner, self.matcher)][: 1 if self.shared else 2]
        pixels = tuple(processor(images=image, return_tensors="np")["pixel_values"][0] for processor in processors)
        return PictureRead(hashlib.blake2b(data, digest_size=16).hexdigest(), pixels)

    def __call__(
        self, pictures: Sequence[PictureRead], captions: Sequence[Sequence[str]]
    ) -> tuple[list[list[Scored]], np.ndarray]:
        """Write synthetic captions for each picture, and score them with the web's.

        Args:
            pictures: Pictures as `read` returns them.
            captions: The cleaned web captions of each.

        Returns:
            The scored captions of each picture, the synthetic ones last (score 0 if one is empty), and the filter's
            features of the pictures, L2-normalised float16 (pictures, F).

        Raises:
            ValueError: For scores that are not finite.
        """
        states = self.captioner.encode([picture.pixels[0] for picture in pictures])
        written = self._write(states, [picture.digest for picture in pictures])
        if not self.shared:
            states = self.matcher.encode([picture.pixels[1] for picture in pictures])
        texts = [[*web, *synthetic] for web, synthetic in zip(captions, written, strict=True)]
        pairs = [(row, text) for row, group in enumerate(texts) for text in group if text]
        scores = iter(self._match(states, pairs, len(pictures)))
        scored = [
            [
                Scored(text, WEB if index < len(web) else SYNTHETIC, next(scores) if text else 0.0)
                for index, text in enumerate(group)
            ]
            for web, group in zip(captions, texts, strict=True)
        ]
        return scored, self.matcher.project(states).astype(np.float16)

    def scores(self, pictures: Sequence[PictureRead], captions: Sequence[str]) -> list[float]:
        """Return the probability that each caption, cleaned, matches its picture, 0 to 1; raises as a call does."""
        states = self.matcher.encode([picture.pixels[-1] for picture in pictures])
        return self._match(states, list(enumerate(captions)), len(pictures))

    def _write(self, states: np.ndarray, digests: Sequence[str]) -> list[list[str]]:
        """Return the cleaned captions of each picture, without the prompt."""
        prompt, begin = self.captioning.prompt, self.captioner.model.generation_config.prompt_ids
        if prompt is not None or begin is None:
            begin = prompt_tokens(PROMPT if prompt is None else prompt, self.captioner.processor)
        seeds = [self.captioning.item_seed(digest) for digest in digests] if self.captioning.beams is None else None
        written = self.captioner.write(
            {"image_embeds": states}, **self.captioning.options, prompt_ids=begin, seed=seeds
        )
        return [[clean_caption(one.text or "") for one in (caption, *caption.others)] for caption in written]

    def _match(self, states: np.ndarray, pairs: Sequence[tuple[int, str]], size: int) -> list[float]:
        """Return the probability of a match of each pair (picture index, text), `size` pairs at a time."""
        found: list[float] = []
        for part in split(pairs, size):
            rows, texts = zip(*part, strict=True)
            tokens = self.matcher.tokens(texts, get_task("retrieval").max_length)
            logits = self.matcher.match(states[list(rows)], tokens)
            if not np.isfinite(logits).all():
                raise ValueError("The filter gave scores that are not finite: its weights are damaged; check them.")
            found += softmax(logits)[:, 1].tolist()
        return [round(score, DIGITS) for score in found]
