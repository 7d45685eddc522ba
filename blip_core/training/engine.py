"""What the loop asks of a framework."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from blip_core.parameters.models import Parameter
from blip_core.tasks import Task
from blip_core.training.settings import Settings
from blip_core.training.start import Start

MODULES = {"pt": ("torch", "blip_pt.trainer"), "tf": ("tensorflow", "blip_tf.trainer")}
"""For each framework its package and our part of it."""


@dataclass(frozen=True)
class Micro:
    """A part of a step's batch, as much as the model gets at once.

    `count` is how many things its loss is the mean over; `noise` (2, batch) draws negatives, where the task has them.
    """

    inputs: Mapping[str, np.ndarray]
    count: int
    noise: np.ndarray | None


def split(part: Micro, task: Task, number: int) -> list[Micro]:
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
        parts.append(Micro(inputs, task.loss_count(inputs), noise))
    return parts


class Engine(Protocol):
    """A model in training, with its optimizer, in one framework.

    `rank` is the number of this process, `processes` how many train together, and `replicas` how many devices each of
    them has. All methods must be called in all processes alike.
    """

    model: Any
    rank: int
    processes: int
    replicas: int

    def step(self, parts: Sequence[Micro], rate: float, alpha: float, seed: tuple[int, int]) -> dict[str, float]:
        """Take one step of the optimizer; returns the losses over all processes and the gradient's norm.

        Where one of them is not finite, the weights stay as they are. `seed` fixes dropout.
        """

    def evaluate(self, part: Micro, alpha: float) -> dict[str, float]:
        """The losses of a batch of this process, without training."""

    def whole(self) -> Any:
        """The model as outside of training, which each process may call by itself: a copy where weights are spread."""

    def read(self, parameter: Parameter) -> np.ndarray:
        """A weight, in PyTorch's layout."""

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """The state of the optimizer by name, in PyTorch's layout: `first.NAME`, `second.NAME`, `steps` ..."""

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state of `optimizer_state`, of either framework."""

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The means of numbers over all processes."""

    def exchange(self, own: bytes) -> list[bytes]:
        """The bytes of all processes, in their order."""

    def close(self) -> None:
        """Leave the other processes."""


def make_engine(framework: str, start: Start, settings: Settings) -> Engine:
    """The engine of a framework, "pt" or "tf".

    Raises `ValueError` for another, for one that is not installed, and for a device that does not work.
    """
    if framework not in MODULES:
        raise ValueError(f"framework must be 'pt' or 'tf', got {framework!r}.")
    package, module = MODULES[framework]
    if find_spec(package) is None:
        raise ValueError(f"framework {framework!r} needs {package}, which is not installed: pip install {package}.")
    engine = importlib.import_module(module).Engine
    try:
        return engine(start, settings)
    except (RuntimeError, AssertionError) as error:
        if settings.device is None:
            raise
        raise ValueError(f"device {settings.device!r} does not work: {str(error).splitlines()[0]}") from None
