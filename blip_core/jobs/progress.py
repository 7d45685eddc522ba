"""How far a long job is: a bar on a terminal, and a small file in its output that `blip status` reads.

FOLDER/.progress/1-of-4.json in the folder of results, or .NAME.progress/1-of-1.json beside a file of them, is written
every few seconds and removed when the job ends well. That of a job that failed or was killed stays until the next one
begins, and tells the reason.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from tqdm import tqdm

from blip_core.files import read_json, write_json
from blip_core.jobs.read_ahead import in_one_line
from blip_core.processing.picture_files import READ
from blip_core.stores import StorePath, to_path

PROGRESS = ".progress"
WORKING, FAILED, SILENT = "working", "failed", "silent"
EVERY, EVERY_STORE = 2.0, 10.0  # seconds between two files
EVENTS = 10.0  # seconds between two events
SILENCE = 60.0
"""Seconds without a new file after which a job counts as killed."""
WINDOW = 60.0
"""Seconds that the rate is taken over."""
FACTS: dict[str, tuple[type, ...]] = {
    "command": (str,), "stage": (str,), "unit": (str,), "state": (str,), "error": (str, type(None)),
    "total": (int,), "done": (int,), "before": (int,), "problems": (int,), "bytes": (int,), "workers": (int,),
    "rate": (int, float, type(None)), "left": (int, float, type(None)), "began": (int, float), "updated": (int, float),
    "host": (str,), "pid": (int,),
}  # fmt: skip
"""What a file of progress says: numbers of units, bytes of pictures read, seconds, and times since 1970."""


class Progress:
    """The progress of a job, as a context around it. Files that cannot be written harm nothing.

    Args:
        command: The job's name.
        total: How many units there are.
        place: The folder of its results, or the file with them; None for a job that writes nothing.
        done: How many units were done before.
        unit: What is counted.
        name: Tells processes that share a job from each other, such as "1/4".
        show: Show a bar on a terminal.
        events: Write the same as a JSON line to standard error every ten seconds.
        problems: Says how many problems there are so far.
        bar: Options of the bar.
    """

    def __init__(
        self,
        command: str,
        total: int,
        place: Any = None,
        *,
        done: int = 0,
        unit: str = "picture",
        name: str = "1/1",
        show: bool = True,
        events: bool = False,
        problems: Callable[[], int] = lambda: 0,
        **bar: Any,
    ):
        self.place = None if place is None else progress_folder(place)
        self.name, self.events, self._problems = name.replace("/", "-of-"), events, problems
        self._facts: dict[str, Any] = {"command": command, "stage": "", "host": socket.gethostname()}
        self._facts |= {"pid": os.getpid(), "began": time.time(), "state": WORKING, "error": None}
        self._workers: set[str] = set()
        self._bytes = READ.bytes
        self._stop = threading.Event()
        self._show, self._options, self._said = show, bar, time.monotonic()
        self._begin(total, done, unit)

    def _begin(self, total: int, done: int, unit: str) -> None:
        self.total, self.done, self.before, self.unit = total, done, done, unit
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), done)])
        self.bar = tqdm(
            total=total, initial=done, unit=unit, disable=None if self._show else True, leave=True, **self._options
        )

    def stage(self, name: str, total: int, unit: str, done: int = 0) -> None:
        """Begin another part of the job, which counts something else."""
        self.bar.close()
        self._facts["stage"] = name
        self._begin(total, done, unit)
        self._write()

    def step(self, count: int = 1, worker: str = "") -> None:
        """Count units as done, by a worker of this name where it is not this process."""
        self.done += count
        if worker:
            self._workers.add(worker)
        self.bar.update(count)

    def facts(self) -> dict[str, Any]:
        """What the file says, see `FACTS`."""
        now = time.monotonic()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        seconds = now - since
        rate = (self.done - before) / seconds if seconds > 0 and self.done > before else None
        left = (self.total - self.done) / rate if rate else None
        return {
            **self._facts,
            "unit": self.unit,
            "total": self.total,
            "done": self.done,
            "before": self.before,
            "problems": self._problems(),
            "bytes": READ.bytes - self._bytes,
            "workers": max(1, len(self._workers)),
            "rate": rate,
            "left": left,
            "updated": time.time(),
        }

    def __enter__(self) -> Self:
        if self.place is not None:
            with suppress(OSError, ValueError):
                for name, facts in read_progress(self.place).items():
                    if facts["state"] != WORKING:
                        (self.place / name).unlink(missing_ok=True)
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._stop.set()
        self.bar.close()
        if isinstance(error, Exception):
            self._facts |= {"state": FAILED, "error": in_one_line(error)}
            self._write()
        elif self.place is not None:
            with suppress(OSError, ValueError):
                (self.place / f"{self.name}.json").unlink(missing_ok=True)
                self.place.rmdir()

    def _beat(self) -> None:
        while not self._stop.wait(EVERY_STORE if isinstance(self.place, StorePath) else EVERY):
            self._write()
            if self.events and time.monotonic() - self._said >= EVENTS:
                self._said = time.monotonic()
                print(json.dumps({"event": "progress", **self.facts()}), file=sys.stderr, flush=True)

    def _write(self) -> None:
        if self.place is not None:
            with suppress(OSError, ValueError):  # a full disk, or a folder without permission
                write_json(self.place / f"{self.name}.json", self.facts())


def progress_folder(place: Any) -> Any:
    """Return the folder of the files of progress of a job with these results, a folder or a file with a suffix."""
    path = to_path(place)
    return path.parent / f".{path.name}{PROGRESS}" if path.suffix and not path.is_dir() else path / PROGRESS


def read_progress(folder: Any) -> dict[str, dict[str, Any]]:
    """Read the files of progress in a folder, by name; jobs that say nothing any more have the state "silent".

    Raises `ValueError` for a damaged file, `OSError` where the store cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: str(path)) if folder.is_dir() else ():
        if path.suffix != ".json" or path.name.startswith("."):
            continue
        with suppress(FileNotFoundError):  # it has ended meanwhile
            facts = read_json(path)
            if not all(isinstance(facts.get(name), kinds) for name, kinds in FACTS.items()):
                raise ValueError(f"{path} is damaged; remove it.")
            if facts["state"] == WORKING and time.time() - facts["updated"] > SILENCE:
                facts["state"] = SILENT
            found[path.name] = {name: facts[name] for name in FACTS}
    return found
