"""The result of the processors: a dictionary of lists or tensors, which are a model's keywords."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from blip_core.engines import ENGINES, get_engine
from blip_core.validators import choice


class BlipInputs(dict[str, Any]):
    """Inputs of a model by name, also readable as attributes.

    Holds some of `pixel_values`, `input_ids`, `attention_mask` and `labels`.

    Example:
        >>> inputs = BlipInputs(input_ids=np.array([[101, 102]]))
        >>> inputs.input_ids.shape, list(inputs)
        ((1, 2), ['input_ids'])
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"These inputs have no {name!r}, only {', '.join(self) or 'nothing'}.") from None

    @property
    def data(self) -> dict[str, Any]:
        """The inputs as what they are, a dictionary."""
        return self

    def to(self, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> Self:
        """Move the tensors to a device and cast the floating-point ones, in place.

        Args:
            device: A device of the tensors' framework; for NumPy arrays "cpu".
            dtype: A type of the tensors' framework or its name ("float16"); may be given alone.
            non_blocking: Let PyTorch copy from pinned memory to a GPU while the program goes on.

        Returns:
            The inputs themselves.

        Raises:
            ValueError: The inputs hold lists, which `return_tensors` turns into tensors.
        """
        if device is not None and not isinstance(device, str | int) and type(device).__name__ != "device":
            device, dtype = None, device
        for name, value in self.items():
            engine = next((engine for engine in ENGINES.values() if engine.owns(value)), None)
            if isinstance(value, np.ndarray):
                self[name] = _cast(name, value, device, dtype)
            elif engine is not None:
                self[name] = engine.move(value, device, dtype, non_blocking)
            else:
                kinds = " or ".join(map(repr, tensor_kinds()[1:]))
                raise ValueError(f"{name} holds lists, not tensors; call the processor with return_tensors={kinds}.")
        return self


def _cast(name: str, array: np.ndarray, device: Any, dtype: Any) -> np.ndarray:
    if device not in (None, "cpu"):
        raise ValueError(f"{name} is a NumPy array, which cannot be moved to {device!r}; use return_tensors='pt'.")
    return array.astype(dtype, copy=False) if dtype is not None and array.dtype.kind == "f" else array


def tensor_kinds() -> tuple[str | None, ...]:
    """Return what `return_tensors` may be: None for lists, "np" for arrays, or an engine."""
    return None, "np", *(name for name in ENGINES if name != "np")


def check_return_tensors(value: str | None) -> None:
    """Raise `ValueError` unless `return_tensors` is one of `tensor_kinds`, and its framework is installed."""
    choice("return_tensors", value, tensor_kinds())
    if value in ENGINES:
        ENGINES[value].require(f"return_tensors={value!r}")


def stack(name: str, rows: Sequence[Any], return_tensors: str | None, remedy: str) -> Any:
    """Join rows of one shape to a tensor whose first dimension is the batch; None leaves the list as it is.

    Whole numbers become int64, or what the engine takes. Rows of different shapes raise a `ValueError` that ends in
    `remedy`.
    """
    check_return_tensors(return_tensors)
    if return_tensors is None:
        return rows
    arrays = [np.empty(0, np.int64) if isinstance(row, list) and not row else np.asarray(row) for row in rows]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"{name} of shapes {shapes[0]} and {shapes[-1]} do not make one tensor; {remedy}.")
    batch = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
    if return_tensors == "np":
        return batch
    engine = get_engine(return_tensors)
    return engine.to_tensor(batch.astype(engine.integer) if batch.dtype == np.int64 else batch)
