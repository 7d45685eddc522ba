"""The engine `onnx`: ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from blip_core.engines import ENGINES
from blip_core.graphs.arrays import move, no_gradients, parts, precision, threads, to_numpy, to_tensor, weights
from blip_core.graphs.graph_models import models_of
from blip_core.graphs.onnx_files import check_graph

__all__ = [
    "check_device", "default_device", "move", "no_gradients", "parts", "precision", "to_numpy", "to_tensor", "weights",
]  # fmt: skip
ENDING = "ExecutionProvider"


class OnnxGraph:
    """A graph as a function of named arrays.

    Raises `ValueError` for a file that is damaged, or that reads anything but the weights beside it.
    """

    def __init__(self, path: Path, device: str):
        check_graph(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads(), 3
        name, _, number = device.partition(":")
        provider = providers()[name]
        wanted = [(provider, {"device_id": number} if number else {}), (f"CPU{ENDING}", {})]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=wanted[: 1 + (name != "cpu")])
        except Exception as error:  # ONNX Runtime has kinds of its own
            raise ValueError(f"{path} cannot be run ({first_line(error)}); export the model again.") from None
        if provider not in self.session.get_providers():  # it goes on without one whose libraries are missing
            raise ValueError(
                f"device {device!r} is in this build of ONNX Runtime but does not start, as where its driver or "
                "libraries are missing; install them, or take device 'cpu'."
            )
        self.path, self.outputs = path, [output.name for output in self.session.get_outputs()]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self.outputs, self.session.run(None, inputs), strict=True))
        except Exception as error:
            raise ValueError(f"{self.path} failed ({first_line(error)}); export the model again.") from None


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, as one line of limited length."""
    return str(error).splitlines()[0][:200]


def providers() -> dict[str, str]:
    """ONNX Runtime's providers here by the name of a device: cpu, cuda, tensorrt, coreml, dml ..."""
    return {name.removesuffix(ENDING).lower(): name for name in onnxruntime.get_available_providers()}


def default_device() -> str:
    """The first GPU where ONNX Runtime has one, else the CPU."""
    return "cuda" if "cuda" in providers() else "cpu"


def check_device(name: str) -> None:
    """Raise `ValueError` for a device that ONNX Runtime does not have here."""
    kind, colon, number = name.partition(":")
    if kind not in providers() or (colon and (kind == "cpu" or not number.isdecimal())):
        raise ValueError(f"device {name!r} does not work in ONNX Runtime here; it has {', '.join(providers())}.")


def __getattr__(name: str) -> Any:
    try:
        return MODELS[name]
    except KeyError:
        raise AttributeError(name) from None


MODELS = models_of(__name__, ENGINES["onnx"], OnnxGraph)
