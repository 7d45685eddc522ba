"""Initial values of parameters, by NumPy's random numbers, so that all engines begin alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from blip_core.config import BlipVisionConfig
from blip_core.parameters.heads import AnyConfig
from blip_core.parameters.models import Parameter

NO_ID = -100
"""Placeholder id of queue entries that no pair filled yet, or of pairs without an id; it matches no picture."""

TEMPERATURE = 0.07
"""What similarities are divided by at first, and where no temperature is learned."""

CONSTANTS = {
    "zeros": np.float32(0),
    "ones": np.float32(1),
    "temperature": np.float32(TEMPERATURE),
    "no_id": np.int64(NO_ID),
    "pointer": np.int64(0),
}


def initial_value(parameter: Parameter, config: AnyConfig, noise: np.random.Generator) -> np.ndarray:
    """Return the initial value of a parameter, float32 (ids and pointers int64) in PyTorch's layout.

    Weights are normal with the configuration's `initializer_range` (0.02 in a vision model by itself, whose own range
    is that of the class token and the positions), biases 0, LayerNorm scales 1, the temperature 0.07. Queues hold
    random unit vectors with the id -100 and begin at column 0.
    """
    init, shape = parameter.row.init, parameter.shape
    if init in CONSTANTS:
        return np.full(shape, CONSTANTS[init])
    if init == "unit_columns":
        columns = noise.standard_normal(shape, np.float32)
        columns /= np.linalg.norm(columns, axis=0)
        return columns
    if init == "logit_scale":
        return np.full(shape, config.logit_scale_init_value, np.float32)  # type: ignore[union-attr]
    if init == "position":
        std = getattr(config, "vision_config", config).initializer_range
    else:
        std = 0.02 if isinstance(config, BlipVisionConfig) else config.initializer_range
    return noise.standard_normal(shape, np.float32) * np.float32(std)


def initial_values(rows: Sequence[Parameter], config: AnyConfig, seed: int) -> Iterator[tuple[Parameter, np.ndarray]]:
    """Yield the initial values of a new model's parameters; momentum copies begin as the weights that they follow."""
    noise = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    copied = {row.followed for row in rows if row.followed != row.name}
    for parameter in rows:
        known = values.get(parameter.followed)
        value = initial_value(parameter, config, noise) if known is None else known
        if parameter.name in copied:
            values[parameter.name] = value
        yield parameter, value


def resized_rows(
    table: np.ndarray, count: int, mean_resizing: bool, scale: float, noise: np.random.Generator
) -> np.ndarray:
    """Keep the first `count` rows of float32 (rows, width), or append rows.

    New rows are the mean of the old ones and a thousandth of their spread, which changes little of what a model says
    (`mean_resizing`), or drawn with the standard deviation `scale`.
    """
    missing = count - len(table)
    if missing <= 0:
        return table[:count].copy()
    if not mean_resizing:
        return np.concatenate([table, noise.normal(scale=scale, size=(missing, table.shape[1])).astype(np.float32)])
    mean = table.mean(axis=0, keepdims=True)
    spread = noise.standard_normal((missing, len(table)), np.float32) @ (table - mean) / np.float32(len(table) ** 0.5)
    return np.concatenate([table, mean + np.float32(1e-3) * spread])
