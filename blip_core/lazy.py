"""Functions that the rows of registries name without importing their modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
