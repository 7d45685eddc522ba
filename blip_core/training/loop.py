"""The loop of training: steps, validation after each epoch, checkpoints, and how it stops."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any

import numpy as np

from blip_core.datasets import Batches
from blip_core.training.engine import Engine, Micro
from blip_core.training.held_out import Validation
from blip_core.training.logs import Log
from blip_core.training.run_folder import Position, RunFolder, write_model
from blip_core.training.schedules import learning_rate, momentum_share, negative_noise
from blip_core.training.settings import Settings
from blip_core.training.start import Start

SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 25
"""How many steps in a row float16 may leave out, in search of a scale at which gradients are finite."""


class Loop:
    """A run of training, from where it stands to its end."""

    def __init__(
        self,
        engine: Engine,
        start: Start,
        settings: Settings,
        batches: Batches,
        folder: RunFolder,
        position: Position,
        validate: Validation | None,
    ):
        self.engine, self.start, self.settings, self.batches = engine, start, settings, batches
        self.folder, self.position, self.validate = folder, position, validate
        self.steps_per_epoch = batches.steps_per_epoch // settings.accumulation
        if not self.steps_per_epoch:
            raise ValueError(
                f"{len(batches.examples)} examples make {batches.steps_per_epoch} batches, less than the "
                f"{settings.accumulation} of a step; use a smaller accumulation or batch_size."
            )
        self.steps = settings.epochs * self.steps_per_epoch
        if settings.max_steps:
            self.steps = min(self.steps, settings.max_steps)

    def run(self, log: Log) -> int | None:
        """Train to the end; returns None, or the signal that stopped it, with a checkpoint of where it stopped.

        Raises `ValueError` where the loss is not finite; the last checkpoint is of before, and good.
        """
        self.log, self.skipped = log, 0
        with stopping() as stopped:
            while self.position.step < self.steps:
                epoch, done = divmod(self.position.step, self.steps_per_epoch)
                batches = self.batches.epoch(epoch, start=done * self.settings.accumulation)
                for _ in range(done, self.steps_per_epoch):
                    parts = [batch.inputs for batch in islice(batches, self.settings.accumulation)]
                    self._step(epoch, parts)
                    step = self.position.step
                    at_end = step % self.steps_per_epoch == 0 or step == self.steps
                    if at_end:
                        self._end_epoch(epoch)
                    if self._agreed(bool(stopped)):
                        if not at_end:
                            self.log.flush(
                                step, epoch + 1, learning_rate(self.settings, step - 1, self.steps_per_epoch)
                            )
                            self._save(epoch)
                        return stopped[0] if stopped else signal.SIGTERM
                    if self.settings.save_every and step % self.settings.save_every == 0 and not at_end:
                        self._save(epoch)
                    if step == self.steps:
                        break
                batches.close()  # type: ignore[attr-defined]  # it is a generator, with workers that read ahead
        return None

    def _step(self, epoch: int, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        settings, step = self.settings, self.position.step
        rate = learning_rate(settings, step, self.steps_per_epoch)
        alpha = momentum_share(settings, step, self.steps_per_epoch)
        micros = [self._micro(inputs, step * settings.accumulation + number) for number, inputs in enumerate(parts)]
        losses = self.engine.step(micros, rate, alpha, (settings.seed, step))
        finite = math.isfinite(losses["loss"]) and (
            math.isfinite(losses["gradient_norm"]) or settings.precision == "float16"
        )
        self.skipped = 0 if math.isfinite(losses["gradient_norm"]) else self.skipped + 1
        if not finite or self.skipped > PATIENCE:
            raise self._not_finite(losses, step, epoch, rate)
        self.micro, self.alpha = micros[-1], alpha
        self.position.step += 1
        images = sum(len(micro.inputs["pixel_values"]) for micro in micros) * self.engine.processes
        self.log.step(self.position.step, epoch + 1, losses, rate, images)

    def _not_finite(self, losses: Mapping[str, float], step: int, epoch: int, rate: float) -> ValueError:
        last = self.folder.last()
        self.log.flush(self.position.step, epoch + 1, rate)
        gradient = f" (norm of the gradient {losses['gradient_norm']})" if "gradient_norm" in losses else ""
        return ValueError(
            f"The loss became {losses['loss']}{gradient} in step {step + 1}, epoch {epoch + 1}, at a learning rate of "
            f"{rate:.3g}. {f'The last good checkpoint is {last[0]}' if last else 'There is no checkpoint yet'}; begin "
            f"another run{', with it as the model or anew,' if last else ''} and try a smaller learning_rate, "
            "warmup_steps or clip_norm, or precision='float32'."
        )

    def _check(self, epoch: int) -> None:
        """Raise `ValueError` where the last step spoiled the weights: what is stored of them is to be good."""
        losses = self.engine.mean(self.engine.evaluate(self.micro, self.alpha))
        if not math.isfinite(losses["loss"]):
            step = self.position.step - 1
            raise self._not_finite(losses, step, epoch, learning_rate(self.settings, step, self.steps_per_epoch))

    def _micro(self, inputs: Mapping[str, np.ndarray], number: int) -> Micro:
        noise = None
        if self.start.task.contrastive:
            size = len(inputs["pixel_values"])
            whole = negative_noise(self.settings.seed, number, size * self.engine.processes)
            noise = whole[:, self.engine.rank * size : (self.engine.rank + 1) * size]
        return Micro(inputs, self.start.task.loss_count(inputs), noise)

    def _end_epoch(self, epoch: int) -> None:
        """Validate, write the model to use where it is the best, and save a checkpoint."""
        self._check(epoch)
        rate = learning_rate(self.settings, self.position.step - 1, self.steps_per_epoch)
        self.log.flush(self.position.step, epoch + 1, rate)
        better = True
        if self.validate is not None:
            metrics = self.validate()
            self.log.validation(self.position.step, epoch + 1, metrics)
            if not math.isfinite(metrics[self.validate.by]):
                raise self._not_finite({"loss": metrics["loss"]}, self.position.step - 1, epoch, rate)
            better = self.validate.better(metrics, self.position.best)
            if better:
                self.position.best, self.position.best_epoch = metrics[self.validate.by], epoch + 1
        if better:
            write_model(self.engine, self.start, self.folder.path)
        self.folder.save(self.engine, self.start, self.position, self.settings.keep)

    def _save(self, epoch: int) -> None:
        self._check(epoch)
        self.folder.save(self.engine, self.start, self.position, self.settings.keep)

    def _agreed(self, stopped: bool) -> bool:
        """Whether any process was told to stop: then all do, at the same step."""
        return (self.engine.processes > 1 and self.engine.mean({"stop": float(stopped)})["stop"] > 0) or stopped


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Note SIGTERM and SIGINT in a list in place of dying of them; the second one is as ever.

    In a thread other than the main one, which gets no signals, nothing is changed.
    """
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        got.append(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    for name in SIGNALS:
        before[name] = signal.signal(name, note)
    try:
        yield got
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
