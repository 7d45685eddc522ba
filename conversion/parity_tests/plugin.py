"""The options of these tests, and one comparison that all of them look at.

pytest loads this module wherever the package is installed; it adds its options only where these tests are asked for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conversion import ParityReport

PACKAGE = "conversion.parity_tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--checkpoint`, `--image` and `--text`."""
    if not any(PACKAGE in argument and "plugin" not in argument for argument in sys.argv):
        return
    group = parser.getgroup("parity")
    group.addoption("--checkpoint", help="a folder, a weight file, or a Hub repository")
    group.addoption("--image", action="append", help="picture to run; may be given more than once")
    group.addoption("--text", action="append", help="text to run, once or for each picture")


@pytest.fixture(scope="session")
def parity_report(request: pytest.FixtureRequest) -> ParityReport:
    """The checkpoint in PyTorch and TensorFlow, float32."""
    from conversion import check_parity

    options = request.config.option
    if not getattr(options, "checkpoint", None):
        pytest.exit("Name the checkpoint to test: pytest --pyargs conversion.parity_tests --checkpoint FOLDER", 2)
    return check_parity(options.checkpoint, options.image, options.text)
