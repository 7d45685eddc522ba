"""Files and modules that the documentation and the comments name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("blip_core", "blip_pt", "blip_tf", "conversion")
ROOMS = (*(f"{package}/" for package in PACKAGES), "docs/", "tests/")
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]
CODE = [path for folder in (*PACKAGES, "docs") for path in (ROOT / folder).rglob("*.py")]
NAMES = {path.name for folder in (*PACKAGES, "docs", "tests") for path in (ROOT / folder).rglob("*.py")}
ORIGINAL = {"nlvr_encoder.py"}
"""Files of Salesforce's repository that the code is compared with."""
GENERATED = {"commands.md", "generation.md", "reference/generation.md"}
"""Pages of the documentation that docs/site/hooks.py makes."""


def is_ours(dotted: str) -> bool:
    """Whether a dotted name is a module or package, or something that the code of one names."""
    path, parent = (ROOT.joinpath(*dotted.split(".")[:length]) for length in (None, -1))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    source = parent / "__init__.py" if parent.is_dir() else parent.with_suffix(".py")
    return source.is_file() and bool(re.search(rf"\b{path.name}\b", source.read_text(encoding="utf-8")))


def is_page(path):
    """Whether a page is there, or a notebook of which the site makes it."""
    return path.exists() or path.with_suffix(".ipynb").exists()


@pytest.mark.parametrize("path", [*TEXTS, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_exists(path):
    text = re.sub(r"https?://[^\s)]+", "", path.read_text(encoding="utf-8"))
    files = set(re.findall(r"[\w/.-]*\w\.py\b", text)) - ORIGINAL
    missing = {name for name in files if Path(name).name not in NAMES}
    missing |= {name for name in files if name.startswith(ROOMS) and not (ROOT / name).exists()}
    missing |= {name for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text) if not (ROOT / name).exists()}
    modules = re.findall(rf"\b(?:{'|'.join(PACKAGES)}|tests|docs)(?:\.[a-z_]\w*)+\b", text)
    missing |= {name for name in modules if not name.endswith((".py", ".md")) and not is_ours(name)}
    if path.suffix == ".md":
        links = re.findall(r"\]\(([\w/.-]+)(?:#[\w-]*)?\)", text)
        missing |= {link for link in set(links) - GENERATED if not is_page(path.parent / link)}
    assert not missing
