"""What the loop asks of an engine: a trainer, which takes steps on micro-batches."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from blip_core.engines import ENGINES, Engine
from blip_core.parameters.models import Parameter
from blip_core.tasks import Task
from blip_core.training.schedules import negative_noise
from blip_core.training.settings import Settings
from blip_core.training.start import Start

REPLAY_WEIGHT = 30.0
"""The weight of the distance from what the model said before, beside the loss."""


@dataclass(frozen=True)
class MicroBatch:
    """What the model gets at once; a step has one or, to accumulate gradients, several.

    `count` is how many things its loss is the mean over. `noise`, float32 (2, batch), chooses negatives, where the task
    has them. `old` asks for the distance from what the model said before it was trained, in place of the task's loss.
    """

    inputs: Mapping[str, np.ndarray]
    count: int
    noise: np.ndarray | None
    old: bool = False


def count(parts: Sequence[MicroBatch], *, old: bool) -> float:
    """Return how many things the loss of new parts, or the distance of old ones, is the mean over."""
    return float(sum(part.count for part in parts if part.old is old))


def split(part: MicroBatch, task: Task, number: int) -> list[MicroBatch]:
    """Cut a batch into so many parts with the same number of examples, in order."""
    if number == 1:
        return [part]
    size = len(part.inputs["pixel_values"]) // number
    ends = {name: np.cumsum([0, *part.inputs[name]]) for name in set(task.rows_per_example.values())}
    parts = []
    for first in range(0, number * size, size):
        examples = slice(first, first + size)
        rows = {name: slice(end[first], end[first + size]) for name, end in ends.items()}
        inputs = {
            name: value[rows.get(task.rows_per_example.get(name, ""), examples)] for name, value in part.inputs.items()
        }
        noise = None if part.noise is None else part.noise[:, examples]
        parts.append(MicroBatch(inputs, task.loss_count(inputs), noise, part.old))
    return parts


def make_micro_batch(
    inputs: Mapping[str, np.ndarray], task: Task, trainer: Trainer, seed: int, number: int, old: bool = False
) -> MicroBatch:
    """Make a micro-batch of this process's inputs; the noise of all processes is determined by `seed` and `number`."""
    noise = None
    if task.contrastive:
        size = len(inputs["pixel_values"])
        whole = negative_noise(seed, number, size * trainer.processes)
        noise = whole[:, trainer.rank * size : (trainer.rank + 1) * size]
    return MicroBatch(inputs, task.loss_count(inputs), noise, old)


class Trainer(Protocol):
    """A model in training, with its optimizer, in one engine.

    `lora` are the rows of the factors that are trained in place of the weights, if the settings ask for some. `rank` is
    the number of this process, `processes` how many train together, and `replicas` how many devices each of them has.
    All processes must call the same methods in the same order.
    """

    model: Any
    lora: list[Parameter]
    rank: int
    processes: int
    replicas: int

    def step(self, parts: Sequence[MicroBatch], rate: float, alpha: float, seed: tuple[int, int]) -> dict[str, float]:
        """Take one step of the optimizer; return the losses over all processes and the norm of the gradient.

        Where one of them is not finite, the weights stay as they are. Dropout is determined by `seed`.
        """

    def evaluate(self, part: MicroBatch, alpha: float) -> dict[str, float]:
        """The losses of a batch of this process, without training."""

    def inference_model(self) -> Any:
        """Return a model that each process may call alone: a copy where weights are spread over devices."""

    def read(self, parameter: Parameter) -> np.ndarray:
        """Return a weight, in PyTorch's layout."""

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state by name, in PyTorch's layout: `first.NAME`, `second.NAME`, `steps` ..."""

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `optimizer_state` returned, in any engine."""

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means of numbers over all processes."""

    def exchange(self, own: bytes) -> list[bytes]:
        """Return the bytes that each process gave, in the order of their ranks."""

    def close(self) -> None:
        """Leave the other processes."""


def make_trainer(engine: Engine, start: Start, settings: Settings) -> Trainer:
    """Make the trainer of an engine. Raises `ValueError` for one that cannot train, and for a device it cannot use."""
    if not engine.trainer:
        able = ", ".join(row.name for row in ENGINES.values() if row.trainer)
        raise ValueError(f"engine {engine.name!r} cannot train; use one of {able}.")
    kind = importlib.import_module(engine.trainer).Trainer
    try:
        trainer: Trainer = kind(start, settings)
    except (RuntimeError, AssertionError) as error:
        if settings.device is None:
            raise
        raise ValueError(f"device {settings.device!r} does not work: {str(error).splitlines()[0]}") from None
    return trainer
