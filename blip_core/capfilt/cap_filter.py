"""A captioner and a filter of either framework: pictures and web captions in, scored captions out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from blip_core.datasets import Picture, clean_caption
from blip_core.engines import engine_of
from blip_core.generation.prompts import prompt_tokens
from blip_core.inference.identity import hash_weights, identity
from blip_core.processing.picture_files import load_image
from blip_core.processing.processor import BlipProcessor
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
        common = {**length, "num_return_sequences": 1, "return_dict_in_generate": False}
        if self.beams is not None:
            return {**common, "num_beams": self.beams, "do_sample": False}
        return {**common, "num_beams": 1, "do_sample": True, "top_p": self.top_p, "repetition_penalty": 1.1}

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
    """`BlipForConditionalGeneration` and `BlipForImageTextRetrieval`, or their TensorFlow twins, for CapFilt.

    Where the vision encoders of both have the same weights, as in two heads of one checkpoint of pre-training, a
    picture is encoded once, otherwise once by each. Raises `ValueError` for models of other heads.
    """

    def __init__(
        self,
        captioner: Any,
        captioner_processor: BlipProcessor,
        matcher: Any,
        matcher_processor: BlipProcessor,
        captioning: Captioning,
    ):
        for model, what, task in ((captioner, "captioner", "caption"), (matcher, "filter", "retrieval")):
            if not engine_of(model).has_head(model, get_task(task).head):
                raise ValueError(f"The {what} must be a {get_task(task).head}, got {type(model).__name__}.")
        self.captioner, self.matcher = captioner, matcher
        self.captioner_processor, self.matcher_processor = captioner_processor, matcher_processor
        self.captioning = captioning
        prepared = [p.image_processor.to_dict() for p in (captioner_processor, matcher_processor)]
        self.shared = prepared[0] == prepared[1] and self._vision(captioner) == self._vision(matcher)

    @staticmethod
    def _vision(model: Any) -> str:
        settings = json.dumps(model.config.vision_config.to_dict(), sort_keys=True, default=str)
        digest = hashlib.blake2b(settings.encode())
        hash_weights(digest, model, ("vision_model.",))
        return digest.hexdigest()

    @cached_property
    def identity(self) -> dict[str, str]:
        """What results depend on in each model, as a hash of its weights and the settings of its processor."""
        return {
            "captioner": identity(self.captioner, self.captioner_processor),
            "filter": identity(self.matcher, self.matcher_processor),
        }

    @property
    def width(self) -> int:
        """The number of values of a feature, F."""
        return self.matcher.config.image_text_hidden_size

    def read(self, picture: Picture) -> PictureRead:
        """Read and prepare a picture; threads may call it.

        Raises `OSError` and `ValueError` as `Picture.load` does, and `ValueError` for a line or a dot: the web counts
        its visitors by such pictures.
        """
        data = picture.read()
        image = load_image(data, name=picture.name)
        if min(image.size) == 1:
            raise ValueError(f"{picture.name} has {image.width} x {image.height} pixels, which show nothing")
        processors = (self.captioner_processor, self.matcher_processor)[: 1 if self.shared else 2]
        pixels = tuple(processor(images=image, return_tensors="np")["pixel_values"][0] for processor in processors)
        return PictureRead(hashlib.blake2b(data, digest_size=16).hexdigest(), pixels)

    def __call__(
        self, pictures: Sequence[PictureRead], captions: Sequence[Sequence[str]]
    ) -> tuple[list[list[Scored]], np.ndarray]:
        """Score the cleaned web captions of each picture and a synthetic one, which comes last.

        It may be empty; then its score is 0. With them come the features of the pictures by which the filter compares
        them, L2-normalised float16 (pictures, F).
        """
        states = self._encode(self.captioner, [picture.pixels[0] for picture in pictures])
        written = self._write(states, [picture.digest for picture in pictures])
        if not self.shared:
            states = self._encode(self.matcher, [picture.pixels[1] for picture in pictures])
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
        return scored, self._project(states)

    @staticmethod
    def _encode(model: Any, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Image embeddings (pictures, tokens, width)."""
        with engine_of(model).no_gradients(model):
            return engine_of(model).to_numpy(
                model.vision_model(engine_of(model).to_tensor(np.stack(pixels), model)).last_hidden_state
            )

    def _project(self, states: np.ndarray) -> np.ndarray:
        """What the filter's contrastive projection makes of image embeddings, (pictures, F)."""
        model, engine = self.matcher, engine_of(self.matcher)
        with engine.no_gradients(model):
            features = engine.to_numpy(model.vision_proj(engine.to_tensor(states[:, 0], model))).astype(np.float32)
        return (features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)).astype(np.float16)

    def _write(self, states: np.ndarray, digests: Sequence[str]) -> list[str]:
        """One caption for each picture, cleaned, without the prompt."""
        model, processor, prompt = self.captioner, self.captioner_processor, self.captioning.prompt
        begin = model.generation_config.prompt_ids
        if prompt is not None or begin is None:
            begin = prompt_tokens(PROMPT if prompt is None else prompt, processor)
        seeds = [self.captioning.item_seed(digest) for digest in digests] if self.captioning.beams is None else None
        with engine_of(model).no_gradients(model):
            images = {"image_embeds": engine_of(model).to_tensor(states, model)}
            tokens = model.generate(**images, **self.captioning.options, prompt_ids=begin, seed=seeds)
        texts = processor.batch_decode(
            engine_of(model).to_numpy(tokens)[:, 1 + len(begin) :], skip_special_tokens=True
        )  # after [DEC]
        return [clean_caption(text.strip()) for text in texts]

    def _match(self, states: np.ndarray, pairs: Sequence[tuple[int, str]], size: int) -> list[float]:
        """The probability of a match of each pair of a picture's number and a text, `size` pairs at a time."""
        model, processor = self.matcher, self.matcher_processor
        found: list[float] = []
        for at in range(0, len(pairs), size):
            rows, texts = zip(*pairs[at : at + size], strict=True)
            limit: dict[str, Any] = {"truncation": True, "max_length": get_task("retrieval").max_length}
            encoded = processor(text=list(texts), padding=True, padding_side="right", return_tensors="np", **limit)
            inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            with engine_of(model).no_gradients(model):
                output = model(**_tensors({"image_embeds": states[list(rows)], **inputs}, model))
            logits = engine_of(model).to_numpy(output.itm_score).astype(np.float64)
            if not np.isfinite(logits).all():
                raise ValueError("The filter gave scores that are not finite: its weights are damaged; check them.")
            found += (1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).tolist()
        return [round(score, DIGITS) for score in found]


def _tensors(inputs: dict[str, np.ndarray], model: Any) -> dict[str, Any]:
    return {name: engine_of(model).to_tensor(array, model) for name, array in inputs.items()}
