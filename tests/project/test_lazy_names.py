"""`import blip_core` loads nothing; every public name is found when it is used, and type checkers know all of them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import blip_core
from tests.helpers.command_runs import ENVIRONMENT


def test_import_loads_no_library():
    code = "import sys, blip_core.cli; print(sorted({'numpy', 'PIL', 'huggingface_hub'} & sys.modules.keys()))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT).stdout == "[]\n"
    )


@pytest.mark.parametrize(
    ("package", "libraries"),
    [
        pytest.param("blip_pt", {"PIL", "torchvision", "huggingface_hub", "pyarrow"}, marks=pytest.mark.needs("pt")),
        pytest.param("blip_tf", set(), marks=pytest.mark.needs("tf")),  # Keras itself loads others
    ],
)
def test_a_backend_loads_what_models_need_and_no_more(package, libraries):
    """Pictures, tokenizers, the Hub and what stands on models wait until they are used."""
    code = f"""import sys, {package}
rooms = ("blip_core.processing", "blip_core.inference.captioner", "blip_core.datasets", "blip_core.training",
         "blip_core.jobs", "blip_core.metrics", "blip_core.search", "blip_core.serving", "blip_core.cli")
libraries = {sorted(libraries | {"tokenizers", "safetensors", "aiohttp"})}
print([name for name in sys.modules if name.startswith(rooms) or name.split(".")[0] in libraries])
print({package}.BlipProcessor.__module__, "BlipTokenizer" in dir({package}))"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert found.stdout == "[]\nblip_core.processing.processor True\n", found.stderr


def test_every_public_name_is_found_and_seen_by_type_checkers():
    tree = ast.parse(Path(blip_core.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == sorted(blip_core.__all__)
    for name, module in seen.items():
        assert getattr(blip_core, name) is getattr(sys.modules[module], name)
    assert set(blip_core.__all__) <= set(dir(blip_core))
    with pytest.raises(AttributeError, match="no attribute 'BlipNothing'"):
        blip_core.BlipNothing  # noqa: B018
