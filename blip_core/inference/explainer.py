"""Explaining matches: where in a picture a model finds each word of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from blip_core.checks import chosen_layer
from blip_core.generation.scores import softmax
from blip_core.inference.attribution import find_words, peak, strengths, word_maps
from blip_core.inference.matcher import Matcher
from blip_core.inference.results import Explanation, picture_name
from blip_core.processing.picture_files import load_image
from blip_core.processing.pictures import to_colour, to_rgb


class Explainer(Matcher):
    """Map where pictures have each word of a text; a `Matcher`, called with one text.

    Example:
        >>> from blip_core import Explainer
        >>> explainer = Explainer.from_pretrained()
        >>> found = explainer("tests/data/emoji/1f98a.png", "orange fox")
        >>> found.words, found.maps.shape
        (('orange', 'fox'), (2, 8, 8))
        >>> found.draw().save("fox.png")
    """

    def __call__(  # type: ignore[override]  # other arguments
        self, pictures: Any, text: str, *, method: str = "gradcam", layer: int | None = None, batch_size: int = 8
    ) -> Any:
        """Map where one picture or many have each word of a text.

        Args:
            pictures: One picture in any form that the processor takes, or any iterable of pictures.
            text: What they may show.
            method: "gradcam", attention weighted by the gradient of the match, or "attention" alone.
            layer: The layer of the text encoder, from 0; 7 of 12 unless given.
            batch_size: How many pictures are read ahead.

        Returns:
            An `Explanation` for one picture; for many an iterator of them in their order, in which a picture that
            cannot be read has `error`.

        Raises:
            OSError: For one picture that cannot be read.
            ValueError: For a text without words, and for a layer or a method that there is not.
        """
        layer = self.check(method, layer)
        words = find_words(self.processor.tokenizer, text)
        tokens, patch = self.tokens([text]), self.model.config.vision_config.patch_size

        def work(some: list[Any], pixels: np.ndarray) -> Any:
            states, grid = self.encode(pixels), [size // patch for size in pixels.shape[2:]]
            for row, picture in enumerate(some):
                image = self._image(picture)
                embeds = states[row : row + 1]
                itm = float(softmax(self.match(embeds, tokens))[0, 1])
                inputs = {"image_embeds": embeds, **tokens}
                maps = self._call(self.model.explain, inputs, layer=layer, method=method, grid=grid)
                heat = word_maps(self._array(maps)[0], words)
                strong = strengths(heat)
                peaks = tuple(peak(one, image.size) if s else None for one, s in zip(heat, strong, strict=True))
                names = tuple(word.text for word in words)
                yield Explanation(picture, text, itm, names, heat, strong, peaks, method, layer, image)

        return self._run(pictures, batch_size, work, lambda picture, error: Explanation(picture, text, error=error))

    def expression_maps(
        self, states: np.ndarray, texts: Sequence[str], grid: Sequence[int], *, method: str = "gradcam", layer: int
    ) -> np.ndarray:
        """Map where one encoded picture has what each of several texts says as a whole.

        Args:
            states: Image embeddings of `encode`, (1, T, W).
            texts: The texts.
            grid: Rows and columns of patches.
            method, layer: As in a call; the layer is one that `check` returned.

        Returns:
            The mean of the maps of all tokens, float32 (texts, rows, columns). Source: ALBEF's evaluation on RefCOCO+.
        """
        inputs = {"image_embeds": states, **self.tokens(texts)}
        maps = self._array(self._call(self.model.explain, inputs, layer=layer, method=method, grid=grid))
        return np.asarray(maps.mean(axis=1))

    def read(self, picture: Any) -> np.ndarray:
        """Read and prepare a picture, as any class here; arrays must be such that maps can be drawn over them."""
        if hasattr(picture, "dtype") and (str(picture.dtype) != "uint8" or picture.shape[2:] != (3,)):
            kind = f"{picture.dtype} {tuple(picture.shape)}"
            raise ValueError(f"An array to explain must be uint8 (height, width, 3), got {kind}; make it a PIL image.")
        return super().read(picture)

    def _image(self, picture: Any) -> Image.Image:
        """The picture as the model sees it, but whole."""
        if hasattr(picture, "dtype"):
            return Image.fromarray(np.asarray(picture))
        processor, name = self.processor.image_processor, picture_name(picture) or "The picture"
        return to_rgb(load_image(picture, processor.apply_exif_orientation), name, to_colour(processor.background))

    def check(self, method: str, layer: int | None) -> int:
        """Return the layer that is mapped. Raises `ValueError` for a layer or a method that there is not."""
        if not hasattr(self.model, "explain"):
            raise ValueError(f"{self.engine.title} has no gradients to explain by; use another engine.")
        config = self.model.config.text_config
        chosen = chosen_layer(layer, method, config)
        if method == "gradcam" and chosen == config.num_hidden_layers - 1:
            raise ValueError(
                f"layer {chosen} is the last one, of which the match score reads no word; take one below it, or "
                "method='attention'."
            )
        return chosen
