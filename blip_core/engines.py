"""Between NumPy arrays and the tensors of whichever framework a model is of."""

from __future__ import annotations

import hashlib
import importlib
import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from blip_core.parameters.models import TRAINING_STATE
from blip_core.processing.processor import BlipProcessor


class Digest(Protocol):
    """A hash of `hashlib` that is being made."""

    def update(self, data: Any, /) -> None: ...


def to_tensor(array: np.ndarray, model: Any) -> Any:
    """An array as a tensor of the model's framework, where the model is."""
    if is_pytorch(model):
        return importlib.import_module("torch").from_numpy(np.ascontiguousarray(array)).to(model.device)
    return importlib.import_module("tensorflow").constant(array)


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor of either framework as a NumPy array; half precision becomes float32."""
    if hasattr(tensor, "detach"):  # PyTorch
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array = np.asarray(tensor)
    return array if array.dtype.kind in "iu" else array.astype(np.float32)


def no_gradients(model: Any) -> AbstractContextManager[Any]:
    """A context in which the model keeps nothing for a backward pass."""
    return importlib.import_module("torch").no_grad() if is_pytorch(model) else nullcontext()


def is_pytorch(model: Any) -> bool:
    """Say whether a model is of PyTorch; else it is of TensorFlow."""
    return hasattr(model, "state_dict")


def identity(model: Any, processor: BlipProcessor) -> str:
    """What a model's results depend on, as a hash of its weights and settings, and those of its processor.

    It is the same in both frameworks.
    """
    settings = [model.config.to_dict(), processor.image_processor.to_dict(), processor.tokenizer.get_vocab()]
    if hasattr(model, "generate"):
        settings.append(model.generation_config.to_dict())
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    hash_weights(digest, model)
    return digest.hexdigest()


def hash_weights(digest: Digest, model: Any, beginnings: tuple[str, ...] = ("",)) -> None:
    """Add to a hash the names and values of a model's weights that begin so; it is the same in both frameworks.

    The state of training, which a model may have, is none of its weights.
    """
    state = {part for parts in TRAINING_STATE.values() for part in parts}
    for row in model.table():
        if row.name.startswith(beginnings) and row.part not in state:
            weight = to_numpy(model.get_parameter(row.name)).astype(np.float32, copy=False)
            weight = weight if is_pytorch(model) else row.from_tensorflow(weight)
            digest.update(row.name.encode())
            digest.update(np.ascontiguousarray(weight).data)
