"""What callers hook into a search, with the interfaces that transformers gives such objects.

They see the whole batch: for each item as many rows as it has beams or samples, each row its text so far. As prompts
of unlike lengths are padded on the left, the last column holds the last tokens; texts that have ended are followed by
`pad_token_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np


class Tensors(NamedTuple):
    """How an engine makes its tensors of arrays, on the device of the model or on the host, and arrays of tensors."""

    make: Callable[[np.ndarray], Any]
    on_host: Callable[[np.ndarray], Any]
    array: Callable[[Any], np.ndarray]


NUMPY = Tensors(np.asarray, np.asarray, np.asarray)


@dataclass(frozen=True)
class Hooks:
    """The hooks of one call of `generate`.

    Args:
        logits_processor: Each called with (input_ids, scores), (rows, length) and (rows, vocabulary), returns scores.
        stopping_criteria: Each called with (input_ids, scores), returns a bool or one for each row: it has ended.
            `scores` are those of all steps so far if the call asks for them, else None.
        prefix_allowed_tokens_fn: Called with (item, tokens), returns the tokens that may follow.
        streamer: `put` is called with the prompts, then with the new token of each row; `end` at the end.
        tensors: What tensors they are given.
    """

    logits_processor: Sequence[Callable[..., Any]] = ()
    stopping_criteria: Sequence[Callable[..., Any]] = ()
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None
    streamer: Any = None
    tensors: Tensors = field(default=NUMPY)

    @classmethod
    def taken_from(cls, options: Mapping[str, Any]) -> tuple[Hooks, dict[str, Any]]:
        """Return the hooks among the keywords of `generate`, and the other keywords; `ValueError` for what is none."""
        given = {name: value for name, value in options.items() if name in NAMES and value is not None}
        for name in ("logits_processor", "stopping_criteria"):
            if name in given:
                one = callable(given[name]) and not isinstance(given[name], Sequence)
                given[name] = [given[name]] if one else list(given[name])
                if not all(map(callable, given[name])):
                    raise ValueError(f"{name} must hold functions of (input_ids, scores), got {given[name]!r:.80}.")
        if not callable(given.get("prefix_allowed_tokens_fn", len)):
            raise ValueError("prefix_allowed_tokens_fn must be a function of (item, tokens).")
        if "streamer" in given and not (hasattr(given["streamer"], "put") and hasattr(given["streamer"], "end")):
            raise ValueError(f"streamer must have the methods put and end, got {type(given['streamer']).__name__}.")
        return cls(**given), {name: value for name, value in options.items() if name not in NAMES}

    def with_tensors(self, tensors: Tensors) -> Hooks:
        """Return the same hooks for an engine's tensors."""
        return replace(self, tensors=tensors)

    def process(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Run the logits processors on float32 scores (rows, vocabulary) and return the new ones."""
        shape = scores.shape
        for processor in self.logits_processor:
            made = processor(self.tensors.make(input_ids), self.tensors.make(scores))
            scores = np.array(self.tensors.array(made), np.float32)
            if scores.shape != shape:
                raise ValueError(
                    f"logits_processor {type(processor).__name__} must return scores of shape {shape}, "
                    f"got {scores.shape}."
                )
        return scores

    def stopped(self, input_ids: np.ndarray, recorded: Sequence[np.ndarray] | None) -> np.ndarray:
        """Say of each row (rows, length) whether a stopping criterion ends it."""
        stopped = np.zeros(len(input_ids), bool)
        scores = None if recorded is None else tuple(self.tensors.make(step) for step in recorded)
        for criterion in self.stopping_criteria:
            found = criterion(self.tensors.make(input_ids), scores)
            found = np.asarray(found if isinstance(found, bool) else self.tensors.array(found)) != 0
            if found.shape not in ((), (1,), stopped.shape):
                raise ValueError(
                    f"stopping_criteria {type(criterion).__name__} must return one bool, or {len(stopped)}, one for "
                    f"each row; got the shape {found.shape}."
                )
            stopped |= found
        return stopped

    def allowed(self, item: int, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that may follow a text of an item."""
        assert self.prefix_allowed_tokens_fn is not None
        found = self.prefix_allowed_tokens_fn(item, self.tensors.make(np.array(tokens, np.int64)))
        listed = found if isinstance(found, list | tuple | set) else self.tensors.array(found).ravel()
        allowed = [int(token) for token in listed]
        if not allowed:
            raise ValueError(f"prefix_allowed_tokens_fn allows no token after {list(tokens)}; return at least one.")
        return allowed


NAMES = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer")
