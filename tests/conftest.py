"""What is not installed is skipped and said: PyTorch, TensorFlow, and packages that users can do without.

Everything is collected in any environment. A test or a whole file is skipped, with the package that it needs as the
reason, where

- the file imports a package that is not installed, itself or by way of `tests/helpers`;
- a parameter of the test names an engine ("pt", "blip_pt") or a form of files ("parquet") whose package is missing;
- the test is marked `needs("pt")`, `needs("tf")` or both, or calls `require`: for what follows from neither;
- the test's own code imports such a package while it runs. Imports of `blip_core` and `conversion` are no reason: they
  must do without.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from blip_core.engines import ENGINES, MissingFramework
from tests.helpers.frameworks import NEEDED, require

os.environ.setdefault("BLIP_MEASURE", "0")  # results of tests follow from no measurement, and leave no file
OPTIONAL = [engine.package for engine in ENGINES.values()]
OPTIONAL += [
    "keras",
    "ai_edge_litert",
    "transformers",
    "accelerate",
    "peft",
    "lightning",
    "pyarrow",
    "datasets",
    "av",
    "ray",
]
OPTIONAL += ["fastapi", "gradio", "prometheus_client", "starlette", "uvicorn"]
OPTIONAL += ["s3fs", "moto", "flask"]
OPTIONAL += ["sybil", "nbclient", "nbformat"]
MISSING = {name for name in OPTIONAL if find_spec(name) is None}
NAMED = {**{engine.module: engine.name for engine in ENGINES.values()}, "parquet": "pyarrow"}
ROOT = Path(__file__).parents[1]
NEUTRAL = tuple(str(ROOT / package) for package in ("blip_core", "conversion"))
BACKENDS = tuple(str(ROOT / engine.module) for engine in ENGINES.values())


def missing_package(error: BaseException | None) -> str | None:
    """The optional package whose absence is behind an error, if any."""
    while error is not None:
        name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if isinstance(error, MissingFramework):
            name = next((package for package in MISSING if f" needs {package}," in str(error)), "")
        if name in MISSING:
            return name
        error = error.__cause__ or error.__context__
    return None


class TestFile(pytest.Module):
    """A file of tests that is skipped as a whole where it imports what is not installed."""

    def collect(self) -> Any:
        try:
            return super().collect()
        except self.CollectError as error:
            if package := missing_package(error):
                pytest.skip(NEEDED.format(package), allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return TestFile.from_parent(parent, path=module_path)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*engines): runs only where the packages of these engines are installed")


@pytest.fixture(autouse=True, scope="session")
def _events_are_late():
    """Let no test on a slow machine find an event of progress where it looks at all that was said."""
    from blip_core.jobs import progress

    progress.EVENTS = 3600.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Any:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = [getattr(value, "name", value) for value in parameters]
    names += [name for mark in item.iter_markers("needs") for name in mark.args]
    for name in names:
        if isinstance(name, str) and (name in ENGINES or name in NAMED):
            require(NAMED.get(name, name))
    return (yield from skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Any:
    return (yield from skipping())


def skipping() -> Any:
    """Turn the error of an import that a test itself asks for into a skip."""
    try:
        return (yield)
    except ImportError as error:
        package, place = missing_package(error), error.__traceback__
        while place is not None:
            file = place.tb_frame.f_code.co_filename
            if file.startswith(BACKENDS):
                break  # whatever a backend calls when it is imported without its framework
            if file.startswith(NEUTRAL):
                raise
            place = place.tb_next
        if package is None:
            raise
        pytest.skip(NEEDED.format(package))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say for each package that is not installed how many tests, and whole files of them, were skipped for it."""
    reasons = (str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    found = (re.search(r"needs (\w+), which is not installed|could not import '(\w+)", reason) for reason in reasons)
    for package, count in sorted(Counter(match[1] or match[2] for match in found if match).items()):
        terminalreporter.write_line(f"not installed: {package}; skipped for it: {count} tests or files of tests")
