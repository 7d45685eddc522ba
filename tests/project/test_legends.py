"""Legends of shapes name only symbols that their file uses."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("blip_core", "blip_pt", "blip_tf", "conversion")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
SYMBOL = r"(?<![\w'])([A-Za-z]'?)(?![\w'])"


def legend(docstring: str) -> str:
    """The paragraph of a module's docstring that says what the symbols of shapes stand for."""
    return next((part for part in docstring.split("\n\n") if part.startswith("Shapes:")), "")


def prose(source: str, tree: ast.Module) -> str:
    """The comments of a file and its docstrings, but the legend."""
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
    strings = [n.value.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    return "\n".join([*comments, *(text.replace(legend(text), "") for text in strings if isinstance(text, str))])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_symbols_of_a_legend_are_used(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    named = re.findall(SYMBOL + r"(?= [a-z=])", legend(ast.get_docstring(tree) or ""))
    assert set(named) - {"a"} <= set(re.findall(SYMBOL, prose(source, tree)))
