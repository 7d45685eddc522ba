"""The notebooks run from the first cell to the last, on the model in the package; they are stored without outputs."""

import ast
import json
import re
from pathlib import Path

import pytest

from tests.helpers.frameworks import require

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PACKAGES = {"pt": "torch", "tf": "tensorflow"}


def codes(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_clean(path):
    for number, cell in enumerate(codes(path)):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        assert ("%pip" in source) == (number == 0)
        ast.parse(source.replace("%pip install", "pass #"))


def test_notebooks_are_on_the_site():
    named = re.findall(r"\]\((\w+)\.md\)", (ROOT / "docs" / "notebooks" / "index.md").read_text(encoding="utf-8"))
    assert sorted(named) == [path.stem for path in NOTEBOOKS]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for extra in re.search(r"blip-duo\[([a-z,]+)\]", "".join(codes(path)[0]["source"]))[1].split(","):
        require(PACKAGES[extra])
    for name, value in {"PYTHONPATH": ROOT, "TMPDIR": tmp_path, "IPYTHONDIR": tmp_path / "ipython"}.items():
        monkeypatch.setenv(name, str(value))
    book = nbformat.read(path, 4)
    nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.get("outputs") for cell in book.cells)
