"""The training loop: steps, validation after each epoch, checkpoints, and how a run stops."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count, islice
from types import FrameType
from typing import Any

import numpy as np

from blip_core.datasets import Batch, Batches
from blip_core.training.chunks import InTurn
from blip_core.training.held_out import Validation
from blip_core.training.logs import Log
from blip_core.training.protocol import Trainer, make_micro_batch
from blip_core.training.run_folder import Position, RunFolder, write_model
from blip_core.training.schedules import learning_rate, momentum_share
from blip_core.training.settings import Settings
from blip_core.training.start import Start

SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 25
"""How many steps in a row float16 may skip while it looks for a scale at which gradients are finite."""


class Loop:
    """A run of training, from its position to its end."""

    def __init__(
        self,
        trainer: Trainer,
        start: Start,
        settings: Settings,
        batches: Batches | InTurn,
        folder: RunFolder,
        position: Position,
        validate: Validation | None,
    ):
        self.trainer, self.start, self.settings, self.batches = trainer, start, settings, batches
        self.folder, self.position, self.validate = folder, position, validate
        self.replayed: Batches | InTurn | None = None
        self.steps_per_epoch = batches.steps_per_epoch // settings.accumulation
        if not settings.drop_last:
            self.steps_per_epoch = -(-batches.steps_per_epoch // settings.accumulation)  # the last step may have less
        if not self.steps_per_epoch:
            raise ValueError(
                f"{len(batches.examples)} examples make {batches.steps_per_epoch} batches, less than the "
                f"{settings.accumulation} of a step; use a smaller accumulation or batch_size."
            )
        self.steps = settings.epochs * self.steps_per_epoch
        if settings.max_steps:
            self.steps = min(self.steps, settings.max_steps)

    def run(self, log: Log) -> int | None:
        """Train to the end; return None, or the signal that stopped the run after a checkpoint was saved.

        Raises `ValueError` where the loss is not finite; the last checkpoint was saved before that.
        """
        self.log, self.skipped = log, 0
        if self.validate is not None and self.settings.patience and self.position.step == 0:
            metrics = self.validate.losses()
            self.position.first = metrics["loss"]
            log.validation(0, 0, metrics)
        with stopping() as stopped, closing(self._replay()) as replayed:
            while self.position.step < self.steps and not self._worse():
                epoch, done = divmod(self.position.step, self.steps_per_epoch)
                batches = self.batches.epoch(epoch, start=done * self.settings.accumulation)
                for _ in range(done, min(self.steps_per_epoch, done + self.steps - self.position.step)):
                    new, old = (list(islice(some, self.settings.accumulation)) for some in (batches, replayed))
                    self._step(epoch, [batch.inputs for batch in new], [batch.inputs for batch in old])
                    step = self.position.step
                    at_end = step == self.steps or (
                        step % self.steps_per_epoch == 0 and (epoch + 1) % self.settings.validate_every == 0
                    )
                    if at_end:
                        self._end_epoch(epoch)
                    stop = self._agreed(bool(stopped))
                    if stop and not at_end:
                        self.log.flush(step, epoch + 1, self._rate(step - 1))
                    if not at_end and (stop or (self.settings.save_every and step % self.settings.save_every == 0)):
                        self._save(epoch)
                    if stop:
                        return stopped[0] if stopped else signal.SIGTERM
                batches.close()  # type: ignore[attr-defined]  # a generator, whose threads read ahead
        return None

    def _replay(self) -> Generator[Batch, None, None]:
        """Yield the batches of replay from the position on, pass after pass; none where nothing is replayed."""
        if self.replayed is not None:
            epoch, first = divmod(self.position.step * self.settings.accumulation, self.replayed.steps_per_epoch)
            for number in count(epoch):
                yield from self.replayed.epoch(number, first if number == epoch else 0)

    def _worse(self) -> bool:
        """Tell whether validation was not better for so long that the run ends, saying so."""
        if not self.settings.patience or self.position.worse < self.settings.patience:
            return False
        self.log.say(
            f"stopped after {self.position.step} of {self.steps} steps, as the loss was not lower any more; the model "
            f"of epoch {self.position.best_epoch} stays"
        )
        return True

    def _rate(self, step: int) -> float:
        return learning_rate(self.settings, step, self.steps_per_epoch)

    def _step(
        self, epoch: int, new: Sequence[Mapping[str, np.ndarray]], old: Sequence[Mapping[str, np.ndarray]]
    ) -> None:
        settings, step = self.settings, self.position.step
        alpha, first = momentum_share(settings, step, self.steps_per_epoch), step * settings.accumulation
        micros = [
            make_micro_batch(inputs, self.start.task, self.trainer, settings.seed, first + number, number >= len(new))
            for number, inputs in enumerate([*new, *old])
        ]
        losses = self.trainer.step(micros, self._rate(step), alpha, (settings.seed, step))
        finite_norm = math.isfinite(losses["gradient_norm"])
        self.skipped = 0 if finite_norm else self.skipped + 1
        good = math.isfinite(losses["loss"]) and (finite_norm or settings.precision == "float16")
        if not good or self.skipped > PATIENCE:
            raise self._not_finite(losses, step, epoch)
        self.micro, self.alpha = micros[len(new) - 1], alpha
        self.position.step += 1
        images = sum(len(micro.inputs["pixel_values"]) for micro in micros) * self.trainer.processes
        self.log.step(self.position.step, epoch + 1, losses, self._rate(step), images)

    def _not_finite(self, losses: Mapping[str, float], step: int, epoch: int) -> ValueError:
        last, rate = self.folder.last(), self._rate(step)
        self.log.flush(self.position.step, epoch + 1, rate)
        gradient = f" (norm of the gradient {losses['gradient_norm']})" if "gradient_norm" in losses else ""
        return ValueError(
            f"The loss became {losses['loss']}{gradient} in step {step + 1}, epoch {epoch + 1}, at a learning rate of "
            f"{rate:.3g}. {f'The last good checkpoint is {last[0]}' if last else 'There is no checkpoint yet'}; begin "
            f"another run{', with it as the model or from the start,' if last else ''} and try a smaller "
            "learning_rate, warmup_steps or clip_norm, or precision='float32'."
        )

    def _check(self, epoch: int) -> None:
        """Raise `ValueError` where the last step spoiled the weights: only good ones are saved."""
        losses = self.trainer.mean(self.trainer.evaluate(self.micro, self.alpha))
        if not math.isfinite(losses["loss"]):
            raise self._not_finite(losses, self.position.step - 1, epoch)

    def _end_epoch(self, epoch: int) -> None:
        """Validate, write the model to use where it is the best, and save a checkpoint."""
        self._check(epoch)
        self.log.flush(self.position.step, epoch + 1, self._rate(self.position.step - 1))
        better = True
        if self.validate is not None:
            metrics = self.validate()
            self.log.validation(self.position.step, epoch + 1, metrics)
            if not math.isfinite(self.validate.score(metrics)):
                raise self._not_finite({"loss": metrics["loss"]}, self.position.step - 1, epoch)
            better = self.validate.better(metrics, self.position.best)
            self.position.worse = 0 if better else self.position.worse + 1
            if better:
                self.position.best, self.position.best_epoch = self.validate.score(metrics), epoch + 1
        if better:
            write_model(self.trainer, self.start, self.folder.path)
        self.folder.save(self.trainer, self.start, self.position, self.settings.keep)

    def _save(self, epoch: int) -> None:
        self._check(epoch)
        self.folder.save(self.trainer, self.start, self.position, self.settings.keep)

    def _agreed(self, stopped: bool) -> bool:
        """Tell whether any process was told to stop: then all stop after the same step."""
        return (self.trainer.processes > 1 and self.trainer.mean({"stop": float(stopped)})["stop"] > 0) or stopped


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Record SIGTERM and SIGINT in a list instead of exiting; a second one has its usual effect.

    In a thread other than the main one, which gets no signals, nothing is changed.
    """
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    def record(number: int, frame: FrameType | None) -> None:
        got.append(number)
        restore()

    for name in SIGNALS:
        before[name] = signal.signal(name, record)
    try:
        yield got
    finally:
        restore()
