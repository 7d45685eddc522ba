"""Captioning: pictures in, captions out."""

from __future__ import annotations

from typing import Any

import numpy as np

from blip_core.generation.prompts import prompt_tokens
from blip_core.inference.results import Caption
from blip_core.inference.text_writer import TextWriter


class Captioner(TextWriter):
    """Say what pictures show.

    Example:
        >>> from blip_core import Captioner
        >>> captioner = Captioner.from_pretrained()
        >>> captioner("tests/data/emoji/1f98a.png").text
        'fox'
        >>> for result in captioner(["tests/data/emoji/1f98a.png", "missing.png"], num_beams=3):
        ...     print(result.text, type(result.error).__name__)
        fox NoneType
        None FileNotFoundError
    """

    head = "BlipForConditionalGeneration"

    def __call__(
        self,
        pictures: Any,
        *,
        prompt: str | None = None,
        batch_size: int = 8,
        keep_prompt: bool = True,
        frames: int = 1,
        **options: Any,
    ) -> Any:
        """Caption one picture or many.

        Args:
            pictures: One picture in any form that the processor takes (a path, a URL, bytes, an open file, a PIL
                image, an array), or any iterable of pictures.
            prompt: What captions begin with; what the model was trained with unless given.
            batch_size: How many pictures the model gets at once.
            keep_prompt: Whether a given `prompt` is part of the text.
            frames: With 2 or more, pictures may be paths of videos: the caption is of so many frames of each, spread
                evenly, whose tokens the decoder attends to in a row.
            **options: Those of `generate`, such as `num_beams`, `max_new_tokens`, `do_sample` or `seed`.

        Returns:
            A `Caption` for one picture; for many an iterator of captions in their order, in which a picture that cannot
            be read has `error`.

        Raises:
            OSError: For one picture that cannot be read.
            ValueError: For options that cannot work.
        """
        prepared = self.options(prompt, keep_prompt, **options)

        def work(some: list[Any], pixels: Any) -> list[Caption]:
            if frames == 1:
                return self.write({"pixel_values": pixels}, some, **prepared)
            states = self.item_states(pixels, batch_size)  # of videos that may differ in length
            each = zip(states, some, strict=True)
            return [self.write({"image_embeds": state}, [video], **prepared)[0] for state, video in each]

        return self._run(pictures, batch_size, work, lambda picture, error: Caption(picture, error=error), frames)

    def options(self, prompt: str | None, keep_prompt: bool = True, **options: Any) -> dict[str, Any]:
        """Return the keywords of `write` for a prompt, None being the one that the model was trained with."""
        self.check_options(options)
        if prompt is None:
            return options
        return {**options, "prompt_ids": prompt_tokens(prompt, self.processor), "whole": keep_prompt}

    def write(self, inputs: dict[str, np.ndarray], pictures: Any = None, **options: Any) -> list[Caption]:
        """Caption prepared pictures.

        Args:
            inputs: `pixel_values`, float32 (B, 3, height, width), or `image_embeds` of `encode`.
            pictures: The pictures of the captions, as results name them.
            **options: Those of `generate`; `whole=True` leaves the prompt in the texts.
        """
        written = self._generate(inputs, **options)
        items = len(next(iter(inputs.values())))
        each = len(written) // items
        captions = []
        for item, picture in enumerate(pictures or [None] * items):
            first, *others = (Caption(picture, **one) for one in written[item * each : (item + 1) * each])
            captions.append(Caption(picture, **written[item * each], others=tuple(others)) if others else first)
        return captions
