"""The engine `openvino`: OpenVINO, on its own graphs and on those of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from blip_core.checkpoints.shared_weights import SHARED
from blip_core.engines import ENGINES
from blip_core.graphs.arrays import move, no_gradients, parts, precision, threads, to_numpy, to_tensor, weights
from blip_core.graphs.graph_models import models_of
from blip_core.graphs.ir_files import check_ir
from blip_core.graphs.onnx_files import check_graph

__all__ = [
    "check_device", "default_device", "move", "no_gradients", "parts", "precision", "to_numpy", "to_tensor", "weights",
]  # fmt: skip
CORE = openvino.Core()


class OpenVINOGraph:
    """A graph as a function of named arrays.

    Raises `ValueError` for a file that is damaged, or that reads anything but the weights beside it.
    """

    def __init__(self, path: Path, device: str):
        (check_ir if path.suffix == ".xml" else check_graph)(path)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        name = device.upper().replace(":", ".")
        if name == "CPU":  # which would compute in bfloat16 where the processor can
            settings |= {"INFERENCE_NUM_THREADS": threads(), "INFERENCE_PRECISION_HINT": "f32"}
        try:
            weights = path.with_name(SHARED) if path.suffix == ".xml" else ""
            self.graph = CORE.compile_model(CORE.read_model(path, weights), name, settings)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be run ({last_line(error)}); export the model again.") from None
        self.path = path

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found = self.graph(inputs, share_inputs=True)
        except RuntimeError as error:
            raise ValueError(f"{self.path} failed ({last_line(error)}); export the model again.") from None
        return {name: found[output] for output in self.graph.outputs for name in output.names}


def last_line(error: Exception) -> str:
    """What OpenVINO says, as one line of limited length; the lines before say where in its code it was."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[:200]


def default_device() -> str:
    """The CPU: where OpenVINO finds a GPU, it is most often one without memory of its own."""
    return "cpu"


def check_device(name: str) -> None:
    """Raise `ValueError` for a device that OpenVINO does not have here."""
    devices = [device.lower().replace(".", ":") for device in CORE.available_devices]
    if name.lower() not in devices:
        raise ValueError(f"device {name!r} does not work in OpenVINO here; it has {', '.join(devices)}.")


def __getattr__(name: str) -> Any:
    try:
        return MODELS[name]
    except KeyError:
        raise AttributeError(name) from None


MODELS = models_of(__name__, ENGINES["openvino"], OpenVINOGraph)
