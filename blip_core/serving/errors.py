"""Refusals: an HTTP status and one sentence."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that gets an error for an answer.

    Args:
        status: The HTTP status, 400 to 599.
        sentence: What was wrong and what to do.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, " ".join(sentence.split()), headers or {}

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": self.sentence}


BROKEN = Refused(500, "Something went wrong in the server; its log says where.")
"""The answer to a request that a mistake of ours, or the machine, has spoilt."""
