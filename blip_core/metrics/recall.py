"""Recall of retrieval."""

from __future__ import annotations

from collections.abc import Collection, Sequence

LIMITS = (1, 5, 10)


def recalls(
    ranked: Sequence[Sequence[int]], right: Sequence[Collection[int]], limits: Sequence[int] = LIMITS
) -> dict[int, float]:
    """Return recall@k for each k: the share of queries, 0 to 1, with a right candidate among their k best.

    Source: the original's evaluation.

    Args:
        ranked: For each query the indices of its candidates, best first.
        right: For each query the indices of the right candidates, of which the best one counts.
        limits: The values of k.

    Raises:
        ValueError: If there are no queries.

    Example:
        >>> recalls([[2, 0, 1], [1, 2, 0]], [{0}, {1}], limits=(1, 2))
        {1: 0.5, 2: 1.0}
    """
    if not len(ranked):
        raise ValueError("There are no queries to count.")
    found = [
        next((place for place, number in enumerate(numbers) if number in wanted), None)
        for numbers, wanted in zip(ranked, right, strict=True)
    ]
    return {k: sum(place is not None and place < k for place in found) / len(found) for k in limits}
