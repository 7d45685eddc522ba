"""Two processes or devices with half a batch each give what one gives with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import FRAMEWORKS, PyTorch
from tests.helpers import difference
from tests.test_objectives import CONTRASTIVE, pairs, tiny

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("head", CONTRASTIVE)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_two_halves_are_a_whole(head, name, tmp_path):
    model, values = tiny(PyTorch, head, queue_size=7), pairs(head, 4, seed=3)
    model.save_pretrained(tmp_path)
    np.savez(tmp_path / "batch.npz", **values)
    output, gradients = PyTorch.gradients(model, values, training=True)
    command = [sys.executable, "-m", "tests.parallel_steps", name, head, str(tmp_path)]
    ranks = (["0"], ["1"]) if name == "pt" else ([],)
    running = [
        subprocess.Popen([*command, *rank], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in ranks
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert not any(process.returncode for process in running), said
    found = np.load(tmp_path / f"{name}.npz")
    for loss in [field for field in output if field.startswith("loss")]:
        assert difference(output[loss], found[loss]) < 1e-5
    for weight, value in PyTorch.weights(model).items():
        assert difference(value, found[f"weight {weight}"]) < 1e-5 or np.array_equal(value, found[f"weight {weight}"])
    for weight, gradient in gradients.items():
        if not weight.endswith("key.bias"):
            assert np.allclose(found[f"grad {weight}"], gradient, rtol=0, atol=1e-4 * np.abs(gradient).max()), weight
