"""Every example in a docstring of the packages runs and gives what it shows, but for `+SKIP`: those take a minute."""

import doctest
import importlib
from dataclasses import fields
from pathlib import Path

import pytest

from blip_core.outputs import OUTPUTS
from tests.helpers.frameworks import INSTALLED

ROOT = Path(__file__).parents[2]
FILES = [
    path.relative_to(ROOT)
    for package in ("blip_core", "blip_pt", "blip_tf", "conversion")
    for path in sorted((ROOT / package).rglob("*.py"))
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text(encoding="utf-8").splitlines())
]
NEEDS = {
    "blip_core/inference": 1, "blip_core/search": 1, "blip_core/training/run.py": 1, "blip_pt": 2, "blip_tf": 2,
}  # fmt: skip
"""How many frameworks must be installed, by the beginning of the path."""


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_run(file, tmp_path, monkeypatch):
    """In an empty folder beside the pictures of tests/data: what an example writes is not left behind."""
    if len(INSTALLED) < max(count for path, count in {"": 0, **NEEDS}.items() if str(file).startswith(path)):
        pytest.skip("needs more frameworks")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data").symlink_to(ROOT / "tests" / "data")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(".".join(file.with_suffix("").parts)))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("kind", OUTPUTS, ids=lambda kind: kind.__name__)
def test_outputs_describe_each_field(kind):
    attributes = kind.__doc__.partition("\n\nAttributes:\n")[2]
    assert [line.split(":")[0].strip() for line in attributes.splitlines()] == [row.name for row in fields(kind)]
