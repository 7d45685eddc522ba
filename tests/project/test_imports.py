"""Who may import whom: arrows point one way, and no framework is loaded that nobody asked for."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TENSORFLOW, PYTORCH = {"tensorflow", "keras", "blip_tf"}, {"torch", "blip_pt"}
# What no file of a package may import: at its top, or anywhere.
FORBIDDEN_AT_TOP = {
    "blip_core": TENSORFLOW | PYTORCH | {"conversion"},
    "conversion": TENSORFLOW | PYTORCH,
}
FORBIDDEN_ANYWHERE = {
    "blip_core": {"blip_tf", "blip_pt"},
    "blip_pt": TENSORFLOW | {"conversion", "transformers"},
    "blip_tf": PYTORCH | {"conversion", "transformers", "tf_keras"},
}
PARITY = "parity"  # the one part of `conversion` that loads both frameworks


def imported(nodes):
    """The top-level packages that import statements among the nodes name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def at_top(tree):
    """The statements that run when a module is imported: not those in functions, nor those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            continue
        yield node
        yield from at_top(node)


@pytest.mark.parametrize("package", ["blip_core", "blip_pt", "blip_tf", "conversion"])
def test_arrows_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        if package == "conversion" and PARITY in path.relative_to(ROOT).as_posix():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not set(imported(at_top(tree))) & FORBIDDEN_AT_TOP.get(package, set()), path
        assert not set(imported(ast.walk(tree))) & FORBIDDEN_ANYWHERE.get(package, set()), path


def python(code, **environment):
    """Run code in a process of its own."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


BLOCK = """import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *given):
        return None if name.split(".")[0] in {names!r} else self.finder.find_spec(name, *given)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def blocking(names, code):
    """The code, run where these packages are not found, as if they were not installed."""
    return BLOCK.format(names=sorted(names)) + code


MAKE = (
    "config = {p}.BlipConfig(text_config={p}.BlipTextConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1,"
    "intermediate_size=12), vision_config={p}.BlipVisionConfig(hidden_size=8, num_attention_heads=2, image_size=16,"
    "num_hidden_layers=1, intermediate_size=12)); {p}.{m}ForImageTextRetrieval(config).save_pretrained('{f}');"
    "{p}.{m}ForImageTextRetrieval.from_pretrained('{f}'); print('done')"
)


@pytest.mark.parametrize(
    ("package", "prefix", "blocked"),
    [("blip_pt", "Blip", {"tensorflow", "keras"}), ("blip_tf", "TFBlip", {"torch"})],
)
def test_a_backend_works_without_the_other_framework(package, prefix, blocked, tmp_path):
    code = f"import {package}; " + MAKE.format(p=package, m=prefix, f=tmp_path)
    found = python(blocking(blocked | {"transformers", "tf_keras"}, code))
    assert found.stdout == "done\n", found.stderr


@pytest.mark.parametrize(
    "package", ["blip_core", "blip_core.cli", "blip_core.datasets", "blip_core.training", "conversion"]
)
def test_the_core_loads_no_framework(package):
    found = python(f"import sys, {package}; print(sorted({{'torch', 'tensorflow', 'keras'}} & sys.modules.keys()))")
    assert found.stdout == "[]\n", found.stderr


@pytest.mark.needs("tf")
@pytest.mark.parametrize(
    ("code", "environment", "message"),
    [
        ("import blip_tf", {"KERAS_BACKEND": "torch"}, "it runs on 'torch'; set KERAS_BACKEND=tensorflow"),
        ("import blip_tf", {"KERAS_BACKEND": "jax"}, "it runs on 'jax'; set KERAS_BACKEND=tensorflow"),
        pytest.param(
            "import os, keras; os.environ['KERAS_BACKEND'] = ''; import blip_tf",
            {"KERAS_BACKEND": "torch"},
            "it runs on 'torch'; set KERAS_BACKEND=tensorflow",
            marks=pytest.mark.needs("pt"),
        ),
    ],
)
def test_one_clear_error_where_keras_cannot_run_on_tensorflow(code, environment, message):
    found = python(code, **environment)
    assert found.returncode == 1
    error = found.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: blip_tf needs ")
    assert message in error


@pytest.mark.parametrize(("engine", "package", "hidden"), [("pt", "blip_pt", "torch"), ("tf", "blip_tf", "tensorflow")])
@pytest.mark.parametrize("module", ["", ".trainer"])
def test_one_sentence_where_the_framework_is_missing(engine, package, hidden, module):
    """Whoever imports a backend learns what to install, by an error that is an `ImportError` and a `ValueError`."""
    code = f"""try:
    import {package}{module}
except ImportError as error:
    print(isinstance(error, ValueError), error)"""
    found = python(blocking({hidden}, "pass") + "\n" + code)
    sentence = f'{package} needs {hidden}, which is not installed: pip install "blip-duo[{engine}]"'
    assert found.stdout == f"True {sentence}\n", found.stderr


@pytest.mark.needs("tf")
def test_a_backend_in_a_file_of_settings_gives_way(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    found = python("import blip_tf, sys; print('torch' in sys.modules)", KERAS_HOME=str(tmp_path), KERAS_BACKEND="")
    assert found.stdout == "False\n", found.stderr
