"""The two backends behind one face, for tests that run the same in both. Each is imported when it is first used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip_core.engines import ENGINES
from tests.helpers.random_models import numpy
from tests.helpers.tensorflow_models import to_pt, to_tf

ORIGINAL = Path(__file__).parents[1] / "data" / "reference" / "original"
HEAD_COUNTS = {
    "text_config": {"num_attention_heads": 2, "sep_token_id": 102},
    "vision_config": {"num_attention_heads": 3},
}
"""What the original's reference models do not tell by their tensors."""
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class PyTorch:
    """`blip_pt` with arrays in and out."""

    name = "pt"

    @staticmethod
    def of(head: str) -> Any:
        import blip_pt

        return getattr(blip_pt, head)

    @staticmethod
    def run(model: Any, values: dict[str, Any], training: bool = False) -> Any:
        return model.train(training)(**to_pt(values))

    @staticmethod
    def ask(method: Callable[..., Any], values: dict[str, Any]) -> Any:
        return method(**to_pt(values))

    @staticmethod
    def gradients(model: Any, values: dict[str, Any], training: bool = False) -> tuple[Any, dict[str, np.ndarray]]:
        model.zero_grad()
        output = model.train(training)(**to_pt(values))
        output.loss.backward()
        found = {p.name: model.get_tensor(p.name) for p in model.table()}
        return output, {name: numpy(x.grad) for name, x in found.items() if x.grad is not None}

    @staticmethod
    def adamw(model: Any, **settings: float) -> Callable[[dict[str, Any]], dict[str, float]]:
        import torch

        optimizer = torch.optim.AdamW(model.parameters(), **settings)
        model.train()

        def step(values: dict[str, Any]) -> dict[str, float]:
            optimizer.zero_grad()
            output = model(**to_pt(values))
            output.loss.backward()
            optimizer.step()
            return losses(output)

        return step

    @staticmethod
    def weights(model: Any) -> dict[str, np.ndarray]:
        return {p.name: numpy(model.get_tensor(p.name)).copy() for p in model.table()}


class TensorFlow:
    """`blip_tf` with arrays in and out."""

    name = "tf"

    @staticmethod
    def of(head: str) -> Any:
        import blip_tf

        return getattr(blip_tf, "TF" + head)

    @staticmethod
    def run(model: Any, values: dict[str, Any], training: bool = False) -> Any:
        return model(**to_tf(values), training=training)

    @staticmethod
    def ask(method: Callable[..., Any], values: dict[str, Any]) -> Any:
        return method(**to_tf(values))

    @staticmethod
    def gradients(model: Any, values: dict[str, Any], training: bool = False) -> tuple[Any, dict[str, np.ndarray]]:
        import tensorflow as tf

        variables = {v.path: v for v in model.trainable_weights}
        with tf.GradientTape() as tape:
            output = model(**to_tf(values), training=training)
        table = {p.name: (p, model.get_parameter(p.name)) for p in model.table()}
        table = {name: (p, v) for name, (p, v) in table.items() if v.path in variables}
        found = tape.gradient(output.loss, [v for _, v in table.values()])
        return output, {
            name: p.from_tensorflow(numpy(tf.convert_to_tensor(gradient)))
            for (name, (p, _)), gradient in zip(table.items(), found, strict=True)
            if gradient is not None
        }

    @staticmethod
    def adamw(model: Any, lr: float, weight_decay: float) -> Callable[[dict[str, Any]], dict[str, float]]:
        import keras
        import tensorflow as tf

        optimizer = keras.optimizers.AdamW(lr, weight_decay=weight_decay, epsilon=1e-8)
        weights = model.trainable_weights

        @tf.function
        def graph(values: dict[str, Any]) -> Any:
            with tf.GradientTape() as tape:
                output = model(**values, training=True)
            optimizer.apply_gradients(
                (g, w) for g, w in zip(tape.gradient(output.loss, weights), weights, strict=True) if g is not None
            )
            return output

        optimizer.build(weights)
        return lambda values: losses(graph(to_tf(values)))

    @staticmethod
    def weights(model: Any) -> dict[str, np.ndarray]:
        return {p.name: p.from_tensorflow(numpy(model.get_parameter(p.name))) for p in model.table()}


FRAMEWORKS = {"pt": PyTorch, "tf": TensorFlow}
INSTALLED = [name for name in FRAMEWORKS if ENGINES[name].installed]
"""Those that can run here; a test with the name of another one as a parameter is skipped (see tests/conftest.py)."""


NEEDED = "needs {}, which is not installed"


def require(name: str) -> None:
    """Skip the test that calls this where a package is not installed: that of an engine, or one by its own name."""
    package = ENGINES[name].package if name in ENGINES else name
    if find_spec(package) is None:
        pytest.skip(NEEDED.format(package))


def losses(output: Any) -> dict[str, float]:
    return {name: float(numpy(value)) for name, value in output.items() if name.startswith("loss")}


def original(framework: Any, head: str, name: str, **config: Any) -> tuple[Any, Any]:
    """A reference model of the original, without dropout, and the numbers that the original computed."""
    settings = copy.deepcopy(HEAD_COUNTS) | config
    settings["text_config"] |= NO_DROPOUT
    model = framework.of(head).from_pretrained(ORIGINAL / f"{name}.pth", config=settings)
    return model, np.load(ORIGINAL / f"{name}.npz")


def to_tokens(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Texts whose words are token ids, as the reference writes them, and their mask."""
    rows = [[101, *map(int, str(text).split()), 102] for text in texts]
    length = max(map(len, rows))
    ids = np.array([row + [0] * (length - len(row)) for row in rows])
    return ids, (ids != 0).astype(np.int64)


def question_batch(reference: Any) -> dict[str, Any]:
    """The pictures and questions of the reference."""
    ids, mask = to_tokens(reference["questions"])
    return {"pixel_values": reference["pixel_values"], "input_ids": ids, "attention_mask": mask}


def answer_list(texts: Any) -> dict[str, Any]:
    """A list of answers to choose from."""
    ids, mask = to_tokens(texts)
    return {"answer_ids": ids, "answer_attention_mask": mask}


def check_gradients(model: Any, gradients: dict[str, np.ndarray], reference: Any) -> None:
    """Gradient norms within 1e-4 of the original's, by its names; a key's bias has none but rounding."""
    norms = dict(zip(reference["grad_names"].tolist(), reference["grad_norms"].tolist(), strict=True))
    largest = max(norms.values())
    for parameter in model.table():
        name = next((n for n in parameter.places("visual_encoder.") if n in norms), None) or parameter.name
        if name not in norms:
            continue
        wanted, found = norms.pop(name), float(np.linalg.norm(gradients.get(parameter.name, 0.0)))
        if name.endswith("key.bias"):
            assert max(wanted, found) < 1e-5 * largest, name
        else:
            assert abs(found - wanted) <= 1e-4 * wanted, (name, found, wanted)
    assert not norms
