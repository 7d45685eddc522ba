"""The options of the parity tests, and the one comparison that all of them look at: `pytest -p` loads it by name."""

from __future__ import annotations

import pytest

from conversion import ParityReport, check_parity


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--checkpoint`, `--image` and `--text`."""
    group = parser.getgroup("parity")
    group.addoption("--checkpoint", help="a folder, a weight file, or a Hub repository")
    group.addoption("--image", action="append", help="picture to run; may be given more than once")
    group.addoption("--text", action="append", help="text to run, once or for each picture")


@pytest.fixture(scope="session")
def parity_report(request: pytest.FixtureRequest) -> ParityReport:
    """The checkpoint in PyTorch and TensorFlow, float32."""
    options = request.config.option
    if not options.checkpoint:
        pytest.exit("Name the checkpoint to test with --checkpoint FOLDER.", 2)
    return check_parity(options.checkpoint, options.image, options.text)
