"""The models of a server, and what they can do together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blip_core.inference import Answerer, Captioner, Explainer
from blip_core.search import Searcher


@dataclass(frozen=True)
class Models:
    """What a server has; None for what it lacks.

    Args:
        captioner: Says what pictures show.
        answerer: Answers questions.
        matcher: Matches texts with pictures, encodes both, and draws heat maps.
        searcher: Finds the pictures of an index, by the same model as `matcher`.
        about: One sentence for people: what the model is, and what it is not.
    """

    captioner: Captioner | None = None
    answerer: Answerer | None = None
    matcher: Explainer | None = None
    searcher: Searcher | None = None
    about: str = ""

    @property
    def explains(self) -> bool:
        """Say whether the engine can draw heat maps, which takes gradients."""
        return self.matcher is not None and hasattr(self.matcher.model, "explain")

    def reader(self, needs: str) -> Any:
        """The model whose processor reads the pictures of a task that needs this one."""
        return self.matcher if needs == "searcher" else getattr(self, needs)
