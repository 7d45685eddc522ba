"""What is imported when it is first used: functions that rows of registries name, and names of packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Function:
    """A function named as "package.module:function", imported when it is first called: rows import no other room."""

    path: str

    def resolve(self) -> Callable[..., Any]:
        """Import the function."""
        module, name = self.path.split(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.resolve()(*args, **kwargs)


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package that imports public names when they are first used.

    Args:
        package: Its `__name__`.
        modules: The whole name of the module of each such name.
    """
    own = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        own[name] = getattr(importlib.import_module(modules[name]), name)
        return own[name]

    return find, lambda: sorted({*own, *modules})
