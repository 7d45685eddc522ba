"""The layout of the packages: which layer imports which, how much lies flat, and names that are used once."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("blip_core", "blip_pt", "blip_tf", "conversion")
# Rooms and modules of blip_core from top to bottom. A module imports from its own layer or from one below.
LAYERS = (
    ("cli", "serving"),
    ("capfilt", "evaluation", "training", "search"),
    ("inference", "graphs", "datasets", "jobs"),
    ("processing", "generation", "checkpoints"),
    ("parameters", "calls", "checks", "metrics"),
    ("config", "config_mixin", "outputs", "engines", "tasks", "lazy", "files", "hub", "validators", "stores"),
)
HEIGHT = {name: len(LAYERS) - number for number, layer in enumerate(LAYERS) for name in layer}


def modules(package: str) -> dict[str, Path]:
    """The files of a package by their dotted names."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_modules(name: str, path: Path) -> set[str]:
    """The modules that a module imports anywhere, those in functions and for type checkers included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) + 1 - node.level], *base.split(".")])
            found |= {f"{base}.{alias.name}".replace("..", ".") for alias in node.names} if base else set()
    return found


def room(name: str) -> str:
    """The room or flat module of blip_core that a dotted name lies in."""
    return [*name.split("."), ""][1]


def upward_imports() -> dict[tuple[str, str], str]:
    """Imports of blip_core from a layer above: (module, room that it imports) -> what exactly."""
    found = {}
    for name, path in modules("blip_core").items():
        if name == "blip_core":
            continue  # its public names, from every layer
        for target in imported_modules(name, path):
            above = target.startswith("blip_core.") and HEIGHT.get(room(target), 0) > HEIGHT[room(name)]
            # `from blip_core import X` reaches every layer by way of the public names.
            public = target.startswith("blip_core.") and room(target) not in HEIGHT and room(target)[:1] != "_"
            if above or public:
                found[name, room(target)] = target
    return found


def test_every_room_has_a_layer():
    rooms = {room(name) for name in modules("blip_core")} - {""}
    assert rooms <= HEIGHT.keys()


def test_a_module_imports_only_from_its_layer_or_below():
    found = upward_imports()
    assert not found


def test_rooms_import_each_other_in_one_direction():
    """No two rooms of a layer need each other, so that each can be read after the ones that it stands on."""
    arrows = defaultdict(set)
    for name, path in modules("blip_core").items():
        for target in imported_modules(name, path):
            if target.startswith("blip_core.") and room(target) in HEIGHT and room(name):
                arrows[room(name)].add(room(target))
    both = {tuple(sorted((a, b))) for a in arrows for b in arrows[a] if a != b and a in arrows.get(b, ())}
    assert not both


def test_few_modules_lie_flat():
    flat = {path.name for path in (ROOT / "blip_core").glob("*.py")} - {"__init__.py"}
    assert len(flat) <= 11, flat


def test_no_two_files_share_a_name():
    """But for the twins of the two backends, and the names that Python or pytest asks for."""
    places = defaultdict(list)
    for folder in (*PACKAGES, "tests", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            places[path.name].append(str(path.relative_to(ROOT)))
    for name in ("__init__.py", "__main__.py", "conftest.py"):
        places.pop(name, None)
    places = {
        name: found
        for name, found in places.items()
        if len(found) > 1 and sorted(found) != [f"blip_pt/{name}", f"blip_tf/{name}"]
    }
    assert not places


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_published(package):
    assert (ROOT / package / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"][package]
