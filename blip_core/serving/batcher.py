"""Dynamic batching: what waits together is computed together.

Nothing waits for company: while the model computes one batch, the requests that arrive are the next one. An idle server
so answers at once, and a busy one fills its batches. Libraries that batch were weighed: LitServe and Ray Serve's
`@serve.batch` bring processes and servers of their own, and none keeps requests with other options apart, refuses
beyond a bound and forgets requests whose client left.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from blip_core.serving.errors import Refused

Compute = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(eq=False)
class Job:
    """A request that waits: what it may share a batch with, how it is computed, and where its result goes."""

    key: Hashable
    compute: Compute
    item: Any
    result: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Computes requests in batches, one batch at a time, in a thread of its own.

    Args:
        size: How many requests a batch has at most.
        places: How many requests may be in work or waiting.
        computed: Called with the key and the number of requests of each batch.
    """

    def __init__(self, size: int, places: int, computed: Callable[[Hashable, int], None] = lambda key, count: None):
        self.size, self.places, self.taken = size, places, 0
        self._computed = computed
        self._waiting: list[Job] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blip-model")
        self._running: asyncio.Task[None] | None = None
        self._seconds = 0.0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for a request. Raises `Refused`, 503, where there is none."""
        if self.taken >= self.places:
            wait = math.ceil(max(1.0, self._seconds * self.taken / self.size))
            raise Refused(503, "The server is busy; ask again later.", {"Retry-After": str(min(wait, 60))})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def submit(self, key: Hashable, compute: Compute, item: Any) -> Any:
        """Compute an item, together with what waits under the same key.

        Cancelling the call removes the item, unless its batch has begun.

        Args:
            key: Items of equal keys may share a batch.
            compute: Returns the result of each of some items, in their order.
            item: The item.

        Returns:
            Its result. An item that cannot be computed raises its own error, whatever it shared a batch with.
        """
        job = Job(key, compute, item)
        self._waiting.append(job)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            return await job.result
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            first = self._waiting[0]
            batch = [job for job in self._waiting if job.key == first.key][: self.size]
            self._waiting = [job for job in self._waiting if job not in batch]
            begin = loop.time()
            results = await loop.run_in_executor(self._thread, compute_all, first.compute, [job.item for job in batch])
            self._seconds = loop.time() - begin
            for job, result in zip(batch, results, strict=True):
                if job.result.done():
                    continue  # its client has left
                if isinstance(result, Exception):
                    job.result.set_exception(result)
                else:
                    job.result.set_result(result)
            self._computed(first.key, len(batch))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def compute_all(compute: Compute, items: Sequence[Any]) -> list[Any]:
    """Compute a batch; where that fails, each item by itself, so that one that cannot be computed harms no other."""
    try:
        return list(compute(items))
    except Exception as error:
        return [error] if len(items) == 1 else [compute_all(compute, [item])[0] for item in items]
