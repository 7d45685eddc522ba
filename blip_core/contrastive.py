"""Contrastive training, as far as it is not tensor code: the noise that draws negatives, and what users may give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from blip_core.checks import InputError, differ

T = TypeVar("T")

NO_ID = -100
"""The id of what is in a queue before any pair, or from pairs without ids: it is nobody's, so that it never matches."""

TEMPERATURE = 0.07
"""What similarities are divided by when training begins, and where no temperature is learned."""


def negative_noise(seed: int, step: int, batch: int) -> np.ndarray:
    """Random numbers float32 (2, batch) in [0, 1) that choose the hard negatives of a training step.

    Row 0 chooses a picture for each text, row 1 a text for each picture. The same seed and step give the same numbers
    everywhere; of several processes each takes the columns of its own examples.
    """
    return np.random.default_rng([seed, step]).random((2, batch), np.float32)


def check_momentum(has_momentum: bool, name: str) -> None:
    """Refuse to train a model without momentum encoders and queues."""
    if not has_momentum:
        raise InputError(
            f"This {name} has no training state; call start_momentum() before the optimizer is made, "
            "or load a checkpoint with one."
        )


def given_pictures(pixel_values: T | None) -> T:
    """Return the pictures to train on, and refuse missing ones: momentum encoders take no embeddings of others."""
    if pixel_values is None:
        raise InputError("Give pixel_values to train: the momentum encoders read the pictures as well.")
    return pixel_values


def check_only_losses(image_embeds: Any, use_itm_head: bool, *outputs: bool) -> None:
    """Refuse what has no meaning for the call that trains."""
    if image_embeds is not None or not use_itm_head or any(outputs):
        raise InputError(
            "With image_ids the call gives losses; leave out image_embeds, use_itm_head=False, output_hidden_states "
            "and output_attentions, or image_ids."
        )


def check_pair_batch(pictures: int | None, texts: int | None, noise: Sequence[int | None] | None) -> None:
    """Refuse batches that are not as many pictures as texts, and noise that does not go with them."""
    if differ(pictures, texts):
        raise InputError(f"Contrastive training needs a text for each picture, got {pictures} pictures, {texts} texts.")
    if noise is not None and (len(noise) != 2 or noise[0] != 2 or differ(noise[1], texts)):
        raise InputError(f"noise must be of shape (2, {texts}), got {tuple(noise)}; see negative_noise.")


def check_image_ids(shape: Sequence[int | None], dtype: str, texts: int | None) -> None:
    """Refuse picture ids that are not one whole number of each pair."""
    if len(shape) != 1 or differ(shape[0], texts) or "int" not in dtype:
        got = f"{dtype} of shape {tuple(shape)}"
        raise InputError(f"image_ids must be of shape ({texts},), one whole number of each pair, got {got}.")


def check_negatives(pairs: int | None, distinct: bool = True) -> None:
    """Refuse batches from which no negative can be drawn: of one pair, or of pairs that are not `distinct` pictures."""
    if pairs == 1 or not distinct:
        raise InputError(NO_NEGATIVES)


NO_NEGATIVES = (
    "Every pair of the batch has the same picture, so that there are no negatives to learn from; "
    "use batches of two different pictures or more (in each process, with config.negative_all_rank=False)."
)
