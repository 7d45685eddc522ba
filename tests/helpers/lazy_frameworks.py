"""The frameworks and backends, imported when something of them is first used.

A file of tests that takes them from here is collected in an environment with one framework: its tests of the other one
are skipped (see tests/conftest.py), the rest runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands for a module; each attribute is that of the module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


torch = LazyModule("torch")
tf = LazyModule("tensorflow")
keras = LazyModule("keras")
blip_pt = LazyModule("blip_pt")
blip_tf = LazyModule("blip_tf")
