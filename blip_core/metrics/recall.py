"""Recall of retrieval."""

from __future__ import annotations

from collections.abc import Collection, Sequence

LIMITS = (1, 5, 10)


def recalls(
    ranked: Sequence[Sequence[int]], right: Sequence[Collection[int]], limits: Sequence[int] = LIMITS
) -> dict[int, float]:
    """Recall@k for each k: the share of queries, 0 to 1, with a right answer among their k best.

    `ranked` holds for each query the numbers of its candidates, best first; `right` the numbers of those that are
    right, of which the best one counts. Source: the original's evaluation.
    Raises `ValueError` where there are no queries.
    """
    if not len(ranked):
        raise ValueError("There are no queries to count.")
    found = [
        next((place for place, number in enumerate(numbers) if number in wanted), None)
        for numbers, wanted in zip(ranked, right, strict=True)
    ]
    return {k: sum(place is not None and place < k for place in found) / len(found) for k in limits}
