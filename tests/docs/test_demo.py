"""The demo of the README."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.needs("pt", "tf")
def test_both_frameworks_agree_in_the_demo():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "docs/examples/demo/demo.py"], cwd=root, capture_output=True, text=True, check=True
    )
    assert "The same words in both frameworks: yes" in done.stdout
    page = (root / ".demo" / "demo.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 10
    assert (root / ".demo" / "heat_map.png").exists()
