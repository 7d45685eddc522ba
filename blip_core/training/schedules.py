"""What depends on the step: learning rate, share of the momentum encoders in the targets, noise for negatives."""

from __future__ import annotations

import math

import numpy as np

from blip_core.training.settings import Settings


def learning_rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over all epochs.

    As in the original: a cosine from `learning_rate` to `min_learning_rate` over the epochs, constant within an epoch,
    or in pre-training a decay by `decay_rate` each epoch, after a linear warm-up of `warmup_steps`, which ends with the
    first epoch. With `schedule_every="step"` the rate follows the same curves within the epochs, and the warm-up may
    take several.
    """
    position = step / steps_per_epoch
    epoch = position if settings.schedule_every == "step" else math.floor(position)
    top, least = settings.learning_rate, settings.min_learning_rate
    if settings.schedule == "cosine":
        rate = least + (top - least) * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
    elif settings.schedule == "decay":
        rate = max(least, top * settings.decay_rate**epoch)
    else:
        rate = top
    if step < settings.warmup_steps and (position < 1 or settings.schedule_every == "step"):
        start = settings.warmup_learning_rate
        return start + (rate - start) * step / settings.warmup_steps
    return rate


def momentum_share(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the `alpha` of a step: it grows linearly from 0 to `settings.alpha` over the first `alpha_epochs`."""
    whole = settings.alpha_epochs * steps_per_epoch
    return settings.alpha * min(1.0, step / whole) if whole else settings.alpha


def negative_noise(seed: int, step: int, batch: int) -> np.ndarray:
    """Return random numbers, float32 (2, batch) in [0, 1), that choose the hard negatives of a training step.

    Row 0 chooses a picture for each text, row 1 a text for each picture. The same seed and step give the same numbers
    on every machine; each of several processes takes the columns of its own examples.
    """
    return np.random.default_rng([seed, step]).random((2, batch), np.float32)
