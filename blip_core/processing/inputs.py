"""The result of the processors: a dictionary of lists or tensors, the keywords of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from blip_core.validators import choice

FRAMEWORKS = ("np", "pt", "tf")


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

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Move the tensors to a device and cast the floating-point ones, in place.

        Args:
            device: Of the tensors' framework. NumPy arrays know no device but "cpu".
            dtype: A type of the tensors' framework or its name ("float16"); may be given alone.

        Returns:
            The inputs themselves.

        Raises:
            ValueError: The inputs hold lists, which `return_tensors` turns into tensors.
        """
        if device is not None and not isinstance(device, str | int) and type(device).__name__ != "device":
            device, dtype = None, device
        for name, value in self.items():
            self[name] = _move(name, value, device, dtype)
        return self


def _move(name: str, value: Any, device: Any, dtype: Any) -> Any:
    if hasattr(value, "detach"):
        import torch

        if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype must be a type of torch or its name, got {dtype!r}.")
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, np.ndarray):
        if device not in (None, "cpu"):
            raise ValueError(f"{name} is a NumPy array, which cannot be moved to {device!r}; use return_tensors='pt'.")
        return value.astype(dtype, copy=False) if dtype is not None and value.dtype.kind == "f" else value
    if hasattr(value, "numpy"):
        import tensorflow as tf

        with tf.device(device):
            return tf.cast(value, dtype) if dtype is not None and value.dtype.is_floating else tf.identity(value)
    raise ValueError(f"{name} holds lists, not tensors; call the processor with return_tensors='pt', 'tf' or 'np'.")


def stack(name: str, rows: Sequence[Any], return_tensors: str | None, remedy: str) -> Any:
    """Join rows of one shape to a tensor whose first dimension is the batch; None leaves the list as it is.

    Whole numbers become int64, in TensorFlow int32. Rows of different shapes are a `ValueError` that tells `remedy`.
    """
    choice("return_tensors", return_tensors, (None, *FRAMEWORKS))
    if return_tensors is None:
        return rows
    arrays = [np.asarray(row) if len(row) else np.empty(0, np.int64) for row in rows]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"{name} of shapes {shapes[0]} and {shapes[-1]} do not make one tensor; {remedy}.")
    batch = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
    if return_tensors == "np":
        return batch
    if return_tensors == "pt":
        import torch

        return torch.from_numpy(np.ascontiguousarray(batch))
    import tensorflow as tf

    return tf.constant(batch.astype(np.int32) if batch.dtype == np.int64 else batch)
