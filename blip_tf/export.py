"""Export to SavedModel and LiteRT, for processes that have TensorFlow or LiteRT but not this package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from blip_core.parameters.graph_parts import INTEGERS, PARTS, axis_sizes, parts_of
from blip_tf.greedy import advance, start
from blip_tf.keras_model import model_name
from blip_tf.parts import Tensors, part_functions


def export_saved_model(model: Any, folder: Path, *, max_new_tokens: int = 20) -> dict[str, str]:
    """Write a SavedModel into a folder, whose `model.safetensors` is removed; return the file of each part.

    `max_new_tokens` is the most that its searches generate.
    """
    functions = part_functions(model)
    for part in parts_of(model_name(type(model))):
        if part.loop:
            functions[part.name] = partial(greedy, model, max_new_tokens)
    write_saved_model(model, folder, functions)
    (folder / "model.safetensors").unlink()
    return dict.fromkeys(functions, "saved_model.pb")


def export_litert(model: Any, folder: Path, *, weights: str = "") -> dict[str, str]:
    """Write `model.tflite` into a folder, whose `model.safetensors` is removed; return the file of each part.

    With `weights="int8"` those of matrix products are rounded.
    """
    functions = part_functions(model)
    with tempfile.TemporaryDirectory() as saved:
        write_saved_model(model, Path(saved), functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, list(functions))
        converter.optimizations = [tf.lite.Optimize.DEFAULT] * bool(weights)
        (folder / "model.tflite").write_bytes(converter.convert())
    (folder / "model.safetensors").unlink()
    return dict.fromkeys(functions, "model.tflite")


def write_saved_model(model: Any, folder: Path, functions: dict[str, Callable[..., Tensors]]) -> None:
    """Trace each part once, for all sizes that the table leaves open, and write all with the weights."""
    axes = axis_sizes(model_name(type(model)), model.config)
    module = tf.Module()
    module.parameters = {p.name: model.get_parameter(p.name).value for p in model.table()}
    signatures = {
        name: tf.function(function, autograph=False).get_concrete_function(
            **{
                given: tf.TensorSpec(
                    [axes.get(axis) for axis in shape.split()], tf.int32 if given in INTEGERS else tf.float32, given
                )
                for given, shape in PARTS[name].inputs.items()
            }
        )
        for name, function in functions.items()
    }
    tf.saved_model.save(module, str(folder), signatures)


def greedy(model: Any, max_new_tokens: int, **given: Tensor) -> Tensors:
    """Write captions or answers, as `generate` gives them: each row its prompt and new tokens, padded on the right."""

    def unfinished(count: Tensor, state: Tensors) -> Tensor:
        return (count < max_new_tokens) & ~tf.reduce_all(state["ended"])

    def go_on(count: Tensor, state: Tensors) -> tuple[Tensor, Tensors]:
        found = advance(model, state)
        return count + 1, {name: tf.ensure_shape(found[name], tensor.shape) for name, tensor in state.items()}

    _, state = tf.while_loop(unfinished, go_on, (tf.constant(1), start(model, max_new_tokens, **given)))
    return {"sequences": state["texts"][:, : tf.reduce_max(state["ends"])]}
