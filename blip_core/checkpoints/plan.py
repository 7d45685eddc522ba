"""The tensors of a model, each with where its value comes from: a checkpoint, or a random initial value."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.writing import LazyTensor
from blip_core.config import BlipConfig
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.matching import Match
from blip_core.parameters.models import Parameter, training_state
from blip_core.parameters.position_embeddings import resize_positions

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""The types that weights can be converted to."""
FLOATS = {np.dtype(np.float64), *DTYPES.values()}
INTEGERS = ("no_id", "pointer")
"""Initial values of the tensors that hold integers."""


def wanted_parameters(model: str, config: AnyConfig, found: Match, rule: str = "whole") -> list[Parameter]:
    """List what a model is made of, and as much of its training state as `rule` says.

    "kept" adds what the checkpoint has of the state, "left out" nothing of it. "whole" adds all of it if the
    checkpoint has any, and always for pre-training, which cannot do without.
    """
    wanted = [p for p in found.parameters if rule != "left out" or not p.part.state]
    has_state = HEADS[model].needs_state or any(p.part.state for p in wanted)
    if rule == "whole" and has_state and isinstance(config, BlipConfig):
        held = {parameter.name for parameter in wanted}
        wanted += [parameter for parameter in training_state(model, config) if parameter.name not in held]
    return wanted


def plan_tensors(
    checkpoint: Checkpoint, config: AnyConfig, wanted: Iterable[Parameter], found: Match, seed: int = 0
) -> list[LazyTensor]:
    """Return the tensors of a model by Hugging Face name, to be read one at a time.

    A position embedding of another image size is resized. What the checkpoint lacks gets its initial value, drawn
    from `seed` and its name, so that it is the same each time; a momentum copy begins as the weight that it follows.
    A tensor of the checkpoint that serves twice is copied, so that no two arrays share memory. Raises `ValueError`
    for weights that are not floating-point.
    """
    planned, used, places = [], set(), set()
    for parameter in wanted:
        source = found.sources.get(parameter.name) or found.sources.get(parameter.followed)
        if source is None:
            dtype = np.dtype(np.int64 if parameter.row.init in INTEGERS else np.float32)
            read = partial(_initial, parameter, config, seed)
        else:
            dtype = checkpoint.dtypes[source]
            if dtype not in ({np.dtype(np.int64)} if parameter.row.init in INTEGERS else FLOATS):
                raise ValueError(f"{checkpoint.path}: {source} is of type {dtype}; weights must be floating-point.")
            place = checkpoint.place(source)
            read = partial(_read, checkpoint, source, parameter, place in places)
            used.add(source)
            places.add(place)
        planned.append(LazyTensor(parameter.stored_as, parameter.shape, dtype, read, parameter))
    check_adapter(checkpoint, used.union(*(found.tied.get(name, ()) for name in used)))
    return planned


def check_adapter(checkpoint: Checkpoint, used: set[str]) -> None:
    """Refuse a model without a tensor that the checkpoint's adapter changes."""
    if (left := sorted(checkpoint.needed - used)) and used:
        raise ValueError(
            f"{checkpoint.path}: its adapter changes {', '.join(left[:3])}, which this model class does not have; load "
            "the class that the adapter was trained for."
        )


def new_state(wanted: Iterable[Parameter], found: Match) -> list[str]:
    """Label the parts of the training state that the checkpoint lacks, momentum copies aside."""
    held = {parameter.name for parameter in found.parameters}
    new = [p for p in wanted if p.name not in held and p.followed == p.name]
    return list(dict.fromkeys(p.part.label for p in new))


def cast(tensor: LazyTensor, dtype: np.dtype) -> LazyTensor:
    """Return a floating-point tensor in another type. Reading it raises `ValueError` if float16 cannot hold it."""
    if tensor.dtype == dtype or tensor.dtype not in FLOATS:
        return tensor
    return replace(tensor, dtype=dtype, read=partial(_cast, tensor, dtype))


def _read(checkpoint: Checkpoint, source: str, parameter: Parameter, again: bool) -> np.ndarray:
    array = checkpoint[source]
    if array.shape != parameter.shape:
        return resize_positions(array, parameter.shape[1])
    return array.copy() if again else array


def _initial(parameter: Parameter, config: AnyConfig, seed: int) -> np.ndarray:
    noise = np.random.default_rng((seed, zlib.crc32(parameter.followed.encode())))
    return initial_value(parameter, config, noise)


def _cast(tensor: LazyTensor, dtype: np.dtype) -> np.ndarray:
    array = tensor.read()
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype == np.float16 and np.isinf(result).sum() > np.isinf(array).sum():
        raise ValueError(f"{tensor.names[0]} holds numbers that float16 cannot; use bfloat16 or float32.")
    return result
