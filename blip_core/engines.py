"""The registry of engines: which frameworks can run a model, and what the core asks of each.

An engine is a row of `ENGINES` and a module of a few functions, `MODULE.backend`. Everything else in `blip_core` works
on NumPy arrays. To add an engine, write its models and that module, and call `register`; see docs/architecture.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np


class MissingFramework(ImportError, ValueError):
    """A framework is not installed: for users a wrong choice of engine, for Python an import that failed."""


@dataclass(frozen=True)
class Engine:
    """A framework that can run models, as one row of the registry.

    Args:
        name: What users type, such as "pt".
        title: Its name in sentences, such as "PyTorch".
        package: The framework's package, which must be installed.
        module: Our package for it. It has the model classes, and a module `backend` with a function for each method of
            this class from `to_tensor` on; it is imported when it is first needed.
        backend_module: The name of that module, where it is another one.
        forms: Of an engine that runs exports: those that it can run, the one made for it first.
        extra: The extra of this project that installs the framework.
        prefix: What the names of its model classes begin with.
        trainer: The module with its `Trainer`, "" where it cannot train.
        integer: The type of the token ids that processors make for it.

    Example:
        >>> get_engine("pt").title
        'PyTorch'
    """

    name: str
    title: str
    package: str
    module: str
    extra: str
    prefix: str = ""
    trainer: str = ""
    integer: str = "int64"
    backend_module: str = ""
    forms: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Say whether the framework is installed, without importing it."""
        return find_spec(self.package) is not None

    def require(self, what: str) -> None:
        """Raise `MissingFramework` unless the framework is installed; `what` needs it, such as "engine 'pt'"."""
        if not self.installed:
            raise MissingFramework(
                f'{what} needs {self.package}, which is not installed: pip install "blip-duo[{self.extra}]"'
            )

    @property
    def backend(self) -> Any:
        """The module that talks to the framework, imported when it is first needed."""
        return importlib.import_module(self.backend_module or f"{self.module}.backend")

    def model_class(self, head: str) -> Any:
        """Return the class of a head, such as "BlipForQuestionAnswering"."""
        return getattr(importlib.import_module(self.module), self.prefix + head)

    def has_head(self, model: Any, head: str) -> bool:
        """Say whether a model is of the class of a head, or of one derived from it."""
        return any(kind.__name__ == self.prefix + head for kind in type(model).__mro__)

    def owns(self, model: Any) -> bool:
        """Say whether a model or a tensor is one of this engine."""
        packages = (self.module, self.package)
        return any(
            f"{kind.__module__}.".startswith(f"{package}.") for kind in type(model).__mro__ for package in packages
        )

    def to_tensor(self, array: np.ndarray, model: Any = None) -> Any:
        """Turn an array into a tensor of the same type, on the model's device."""
        return self.backend.to_tensor(array, model)

    def move(self, tensor: Any, device: Any, dtype: Any, non_blocking: bool = False) -> Any:
        """Move a tensor to a device, and cast it if it is floating-point; None leaves what it is."""
        return self.backend.move(tensor, device, dtype, non_blocking)

    def to_numpy(self, tensor: Any) -> np.ndarray:
        """Turn a tensor into an array; half precision becomes float32."""
        array: np.ndarray = self.backend.to_numpy(tensor)
        return array

    def no_gradients(self, model: Any) -> AbstractContextManager[Any]:
        """Open a context in which the model neither drops anything out nor keeps anything for a backward pass."""
        context: AbstractContextManager[Any] = self.backend.no_gradients(model)
        return context

    def default_device(self) -> str:
        """Name the device that models are put on unless users choose: a GPU where there is one."""
        device: str = self.backend.default_device()
        return device

    def check_device(self, name: str) -> None:
        """Raise `ValueError` for a device that this engine does not have here, saying which it has."""
        self.backend.check_device(name)

    def precision(self, model: Any) -> str:
        """Name the type that a model computes in, such as "float32" or "bfloat16"."""
        precision: str = self.backend.precision(model)
        return precision

    def weights(self, model: Any, beginnings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the published name and float32 array of each weight whose name begins so, the same in every engine.

        Arrays are in PyTorch's layout. What only training needs (momentum encoders, queues) is left out.
        """
        weights: Iterator[tuple[str, np.ndarray]] = self.backend.weights(model, beginnings)
        return weights

    def parts(self, model: Any) -> dict[str, Any]:
        """Return the parts of a model that exports have (see `parameters.graph_parts`), functions of named tensors."""
        parts: dict[str, Any] = self.backend.parts(model)
        return parts

    def read(self, model: Any, row: Any) -> np.ndarray:
        """Return one `Parameter` of a model as an array in PyTorch's layout, such as `weights` leaves out as well."""
        array: np.ndarray = self.backend.read(model, row)
        return array

    def gradients(self, model: Any, inputs: dict[str, Any], objective: str) -> dict[str, np.ndarray]:
        """Return the gradient of "loss", or of another output's mean square, by parameter and in PyTorch's layout."""
        gradients: dict[str, np.ndarray] = self.backend.gradients(model, inputs, objective)
        return gradients

    def descend(self, model: Any, gradients: dict[str, np.ndarray], rate: float) -> None:
        """Take a step of gradient descent by the framework's own optimizer."""
        self.backend.descend(model, gradients, rate)


ENGINES: dict[str, Engine] = {}
"""Every engine by its name, in the order in which they are tried where users name none."""


def register(engine: Engine) -> None:
    """Add an engine to the registry, or replace the one of the same name."""
    ENGINES[engine.name] = engine


def get_engine(name: str | None = None) -> Engine:
    """Return the engine of a name; without one, the first that is installed.

    Raises:
        ValueError: For a name that no engine has, and for an engine whose framework is not installed, which is an
            `ImportError` as well.

    Example:
        >>> get_engine("tf").package
        'tensorflow'
    """
    if name is None:
        if found := next((engine for engine in ENGINES.values() if engine.installed), None):
            return found
        extras = " or ".join(f'pip install "blip-duo[{engine.extra}]"' for engine in ENGINES.values())
        raise ValueError(f"No engine is installed ({', '.join(e.title for e in ENGINES.values())}): {extras}")
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}.")
    engine = ENGINES[name]
    engine.require(f"engine {name!r}")
    return engine


def engine_of(model: Any) -> Engine:
    """Return the engine that runs a model. Raises `ValueError` for an object of none."""
    for engine in ENGINES.values():
        if engine.owns(model):
            return engine
    raise ValueError(
        f"A model of {', '.join(e.title for e in ENGINES.values())} is needed, got {type(model).__name__}."
    )


register(Engine("pt", "PyTorch", "torch", "blip_pt", extra="pt", trainer="blip_pt.trainer"))
register(
    Engine(
        "tf", "TensorFlow", "tensorflow", "blip_tf", extra="tf", prefix="TF", trainer="blip_tf.trainer", integer="int32"
    )
)
for _name, _title, _package, _module, _forms in (
    ("onnx", "ONNX Runtime", "onnxruntime", "blip_core.graphs.onnx_runtime", ("onnx",)),
    ("openvino", "OpenVINO", "openvino", "blip_core.graphs.open_vino", ("openvino", "onnx")),
):
    register(Engine(_name, _title, _package, _module, _name, backend_module=_module, forms=_forms))
