"""The run that is ready for a GPU, on a CPU: every line of it but those that ask for CUDA."""

import re

import pytest

from tests.bench import gpu


@pytest.mark.slow
@pytest.mark.needs("pt")
def test_the_run_is_right_on_a_cpu(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda module, **options: module)  # of which a GPU's graphs are recorded
    page = gpu.measure("cpu", "tiny")
    assert "WRONG" not in page
    assert not re.search(r"\| \w*(Error|Exception) ", page)
    for row in ("BlipForNLVR", "captions, 3 beams, 2 pictures", "1 picture with 3 texts", "training, batch of 2"):
        assert row in page
