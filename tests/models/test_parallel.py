"""Two processes or devices with half a batch each give what one gives with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.contrastive_models import CONTRASTIVE, pairs, tiny
from tests.helpers.frameworks import FRAMEWORKS, PyTorch
from tests.helpers.parallel_steps import PARTS, halves
from tests.helpers.random_models import difference, numpy

ROOT = Path(__file__).parents[2]


def run_in_two(name, head, values, folder):
    """Run one step of the model in the folder on two processes or devices; returns it and what it wrote, if it did."""
    np.savez(folder / "batch.npz", **values)
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={PARTS}", "-m"] if name == "pt" else []
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "tests.helpers.parallel_steps", name, head, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, dict(np.load(folder / f"{name}.npz")) if done.returncode == 0 else {}


@pytest.mark.parametrize("head", CONTRASTIVE)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_two_halves_are_a_whole(head, name, tmp_path):
    model, values = tiny(PyTorch, head, queue_size=7), pairs(head, 4, seed=3)
    model.save_pretrained(tmp_path)
    output, gradients = PyTorch.gradients(model, values, training=True)
    done, found = run_in_two(name, head, values, tmp_path)
    assert done.returncode == 0, done.stderr
    for loss in [field for field in output if field.startswith("loss")]:
        assert difference(output[loss], found[loss]) < 1e-5
    for weight, value in PyTorch.weights(model).items():
        assert difference(value, found[f"weight {weight}"]) < 1e-5 or np.array_equal(value, found[f"weight {weight}"])
    for weight, gradient in gradients.items():
        if not weight.endswith("key.bias"):
            assert np.allclose(found[f"grad {weight}"], gradient, rtol=0, atol=1e-4 * np.abs(gradient).max()), weight


@pytest.mark.parametrize("head", CONTRASTIVE)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_negatives_of_each_half_alone(head, name, tmp_path):
    """Contrast is with all, as before; matching is what each half gives by itself."""
    model, values = tiny(PyTorch, head, negative_all_rank=False), pairs(head, 4, seed=3)
    if "image_ids" in values:
        values["image_ids"] = np.array([0, 1, 0, 2])
    model.save_pretrained(tmp_path)
    alone = [PyTorch.run(PyTorch.of(head).from_pretrained(tmp_path), half, training=True) for half in halves(values)]
    whole = PyTorch.run(model, values, training=True)
    done, found = run_in_two(name, head, values, tmp_path)
    assert done.returncode == 0, done.stderr
    matching = np.mean([numpy(half.loss_itm) for half in alone])
    assert difference(matching, whole.loss_itm) > 1e-3  # other negatives were drawn
    assert difference(matching, found["loss_itm"]) < 1e-5
    assert difference(whole.loss_itc, found["loss_itc"]) < 1e-5
    for queue in ("image_queue", "text_queue"):
        assert difference(model.get_tensor(queue), found[f"weight {queue}"]) < 1e-5


def test_a_half_without_negatives_stops_both(tmp_path):
    """No process waits for the features of one that has given up."""
    head = "BlipForImageTextRetrieval"
    tiny(PyTorch, head, negative_all_rank=False).save_pretrained(tmp_path)
    values = pairs(head, 4) | {"image_ids": np.array([0, 1, 2, 2])}
    done, _ = run_in_two("pt", head, values, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("no negatives to learn from") >= PARTS
