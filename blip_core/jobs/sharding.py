"""Work in shards: by this process alone, by several that share it, or by Ray on this machine or a cluster.

A shard is a part of the input. Its result depends on nothing else and is written atomically, so any process may work
on any shard, be killed, or do a shard a second time.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from blip_core.datasets.examples import ChangedError
from blip_core.files import TEMPORARY, differences, read_json, write_json
from blip_core.jobs.progress import PROGRESS
from blip_core.jobs.writer_lock import LOCK
from blip_core.processing.picture_files import READ
from blip_core.validators import check_settings, number, setting, text, whole_number

SHARD_SIZE = 1000
"""The default number of items in a shard."""
Item = TypeVar("Item")
Unit = TypeVar("Unit")


class Done(NamedTuple):
    """What was just processed."""

    pictures: int
    problems: int = 0
    """How many of these cannot be used."""
    worker: str = ""
    """The process that did it, where it is one of Ray's."""
    shards: int = 0
    """Shards that were finished by it, where they are counted."""


Work = Callable[[Unit], Iterator[Done]]
"""Works on a shard, writes its result, and yields what was just processed."""


@dataclass(frozen=True)
class Shard(Generic[Item]):
    """Consecutive items that are processed as a unit."""

    name: str
    items: Sequence[Item]


def cut(items: Sequence[Item], size: int) -> list[Shard[Item]]:
    """Cut items into shards of `size`; the last may be smaller."""
    return [Shard(f"{at // size:05}", items[at : at + size]) for at in range(0, len(items), size)]


@dataclass(frozen=True)
class Share:
    """The shards of one of several processes: process `number`, from 1, takes every `of`th shard.

    Raises `ValueError` unless 1 <= `number` <= `of`.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if type(self.number) is not int or type(self.of) is not int or not 1 <= self.number <= self.of:
            raise ValueError(f"A share is I/N with whole numbers 1 <= I <= N, such as 1/8, got {self}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, given: str) -> Share:
        """Parse `I/N`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given)
        if not found:
            raise ValueError(f"A share is I/N with whole numbers 1 <= I <= N, such as 1/8, got {given!r}.")
        return cls(int(found[1]), int(found[2]))

    def take(self, shards: Sequence[Unit]) -> Sequence[Unit]:
        """Return the shards of this share."""
        return shards[self.number - 1 :: self.of]


@dataclass(frozen=True)
class OnRay:
    """How Ray does the work.

    Args:
        address: That of a cluster, "auto" or "host:6379"; None starts Ray on this machine while the work lasts.
        actors: The number of processes, which each load the models once. None: as many as the cluster has room for.
        cpus: Cores of each actor, which may be a fraction.
        gpus: GPUs of each actor, which may be a fraction.

    Raises:
        ValueError: For values out of range, and where Ray is not installed.
    """

    address: str | None = setting(None, text, optional=True)
    actors: int | None = setting(None, whole_number, least=1, optional=True)
    cpus: float = setting(1, number, above=0)
    gpus: float = setting(0, number, least=0)

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise ValueError('Ray is not installed: pip install "blip-duo[ray]", or "ray[data]".')
        check_settings(self)


def work_through(
    shards: Sequence[Unit], start: Callable[[], Work[Unit]], on_ray: OnRay | None = None
) -> Iterator[Done]:
    """Work through shards; yields what was just processed.

    `start` is called once in each working process and loads what it needs. With Ray, it and the shards must be
    picklable, and actors that die are restarted. An exception ends the work; finished shards stay.

    Raises `OSError` where Ray cannot be reached.
    """
    if not shards:
        return
    if on_ray is not None:
        yield from _on_ray(shards, start, on_ray)
    else:
        work = start()
        for shard in shards:
            yield from work(shard)


def find_run(
    path: Path, name: str, run: Mapping[str, Any], allowed: Collection[str] = (), free: Collection[str] = ()
) -> bool:
    """Say whether a folder holds a run with these facts, which its file `name` stores.

    Raises `ValueError` for a folder of another run, naming the differences (the facts in `free` may differ), and for
    one with files that are not `allowed`.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; the output of this command needs a folder.")
    # Listed first: another process that begins at this moment writes the facts before anything else.
    others = path.is_dir() and any(
        p.name not in allowed and not any(fnmatch(p.name, known) for known in (TEMPORARY, LOCK, PROGRESS))
        for p in path.iterdir()
    )
    if (path / name).exists():
        if different := differences(read_json(path / name), run, free):
            raise ValueError(
                f"{path} holds another run: {'; '.join(different)}. Give the same again to resume it, or name another "
                "folder."
            )
        return True
    if others:
        raise ValueError(f"{path} holds other files and no run of this command; name a new or empty folder.")
    return False


def begin_run(path: Path, name: str, run: Mapping[str, Any], allowed: Collection[str] = ()) -> None:
    """Begin a run with these facts in a folder, or resume it; raises as `find_run`, and `OSError`."""
    if not find_run(path, name, run, allowed):
        with writing(path):
            write_json(path / name, dict(run))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the path in an `OSError` of writing, and what to do."""
    try:
        yield
    except ChangedError:  # an input file changed; the message says so
        raise
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror or error}. Make room or allow writing, then run the same "
            "command again: finished shards stay."
        ) from error


def clean(path: Path) -> None:
    """Remove the temporary files and those of progress that killed processes left; call it when all work is done."""
    for left in path.rglob(TEMPORARY):
        left.unlink(missing_ok=True)
    if (path / PROGRESS).is_dir():
        for left in (path / PROGRESS).iterdir():
            left.unlink(missing_ok=True)
        with suppress(OSError):  # another process has begun meanwhile
            (path / PROGRESS).rmdir()


def check_worker(found: object, wanted: object) -> None:
    """Raise `ValueError` unless a worker loaded the models of the run."""
    if found != wanted:
        raise ValueError("A worker has loaded other models than the run; give all machines the same files.")


class _Actor:
    """The worker in each of Ray's processes."""

    def __init__(self, start: Callable[[], Work[Any]]):
        # Ray sets OMP_NUM_THREADS to the actor's cores, which PyTorch follows; TensorFlow reads another variable.
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        self.work = start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Work on a batch of one shard. Errors are returned as values, as Ray would wrap exceptions."""
        error, done, before = np.empty(1, object), [Done(0)], READ.bytes
        try:
            done += self.work(batch["shard"][0])
        except (ValueError, OSError) as raised:
            error[0] = raised
        counts = {name: [sum(getattr(one, name) for one in done)] for name in ("pictures", "problems", "shards")}
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return {**counts, "bytes": [READ.bytes - before], "worker": [worker], "error": error}


def _on_ray(shards: Sequence[Unit], start: Callable[[], Work[Unit]], settings: OnRay) -> Iterator[Done]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # off: it reports to Ray's makers
    import ray
    import ray.data

    mine = not ray.is_initialized()
    if mine:
        try:
            _check_reachable(settings.address)  # Ray itself would try for several minutes
            ray.init(settings.address or "local", logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            where, reason = settings.address or "this machine", str(error).rstrip(".")
            hint = " Where the cluster has a token, RAY_AUTH_TOKEN must hold it." if settings.address else ""
            raise OSError(f"Ray cannot be reached at {where}: {reason}.{hint}") from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        room = settings.actors or _room(ray.cluster_resources(), settings)
        rows = [{"shard": shard} for shard in shards]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(start,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(len(rows), room)),
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
        )
        for row in found.iter_rows():
            if row["error"] is not None:
                raise row["error"]
            READ.add(row["bytes"])
            yield Done(row["pictures"], row["problems"], row["worker"], row["shards"])
    finally:
        if mine:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise `OSError` where an address with a port does not answer."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d+)", address or "")
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def _room(resources: dict[str, float], settings: OnRay) -> int:
    """Return how many actors a cluster has room for."""
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    room = min(resources.get(name, 0) // amount for name, amount in wanted.items() if amount)
    if room < 1:
        raise ValueError(
            f"Ray has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs, too little for one actor "
            f"with {settings.cpus:g} and {settings.gpus:g}."
        )
    return int(room)
