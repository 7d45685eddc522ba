"""What `blip_core` asks of every engine that runs graphs: arrays are NumPy's, all is computed in float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.plan import plan_tensors, wanted_parameters
from blip_core.parameters.matching import compare


def to_tensor(array: np.ndarray, model: Any = None) -> np.ndarray:
    """The array itself."""
    return array


def move(tensor: np.ndarray, device: Any, dtype: Any) -> np.ndarray:
    """The array, if it is floating-point of a type; graphs move it to their device themselves."""
    return tensor if dtype is None or tensor.dtype.kind != "f" else tensor.astype(dtype)


def to_numpy(tensor: Any) -> np.ndarray:
    """The array itself."""
    return np.asarray(tensor)


def no_gradients(model: Any) -> AbstractContextManager[None]:
    """A context that does nothing: graphs have neither gradients nor dropout."""
    return nullcontext()


def precision(model: Any) -> str:
    """The type that graphs compute in, and of weights that are stored in less, that one, too."""
    weights = model.export.weights
    return "float32" if weights == "float32" else f"{weights} weights"


def parts(model: Any) -> dict[str, Callable[..., dict[str, np.ndarray]]]:
    """The parts of the export by name."""
    return {part: partial(model.run, part) for part in model.export.parts}


def weights(model: Any, beginnings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, np.ndarray]]:
    """The name and array of each weight whose name begins so, float32; of whole files where weights are rounded."""
    folder = model.export.folder
    if not (folder / "model.safetensors").is_file():
        for path in sorted({*folder.glob("*.bin"), *folder.glob("*.xml")}):
            yield path.name, np.memmap(path, mode="r")
        return
    head, checkpoint = type(model).__name__, open_checkpoint(folder)
    found = compare(head, model.config, checkpoint.shapes)
    for tensor in plan_tensors(
        checkpoint, model.config, wanted_parameters(head, model.config, found, "left out"), found
    ):
        if tensor.row.name.startswith(beginnings):
            yield tensor.row.name, np.asarray(tensor.read(), np.float32, order="C")


def threads() -> int:
    """How many threads a graph is computed by: OMP_NUM_THREADS, or as many as there are processors to run on."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(given) if given.isdecimal() and int(given) else available
