"""What a server counts, in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Requests, how long they take, how large batches are, and how many requests are in work or waiting.

    Args:
        taken: Returns how many requests are in work or waiting.
    """

    def __init__(self, taken: Callable[[], float]):
        self.registry = CollectorRegistry()
        here: dict[str, Any] = {"namespace": "blip", "registry": self.registry}
        self.requests = Counter("requests", "Requests by task and status.", ["task", "status"], **here)
        self.seconds = Histogram("request_seconds", "Seconds of a request.", ["task"], buckets=SECONDS, **here)
        self.batches = Histogram(
            "batch_size", "Requests computed together.", ["task"], buckets=(1, 2, 4, 8, 16, 32, 64), **here
        )
        queue = Gauge("queue", "Requests in work or waiting.", **here)
        queue.set_function(taken)

    def text(self) -> bytes:
        """All of it, as text."""
        return generate_latest(self.registry)
