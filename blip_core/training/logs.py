"""The logs of a run: a progress bar on a terminal, else a line now and then; JSON lines; a table; trackers."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from blip_core.files import atomic_path, errors_named
from blip_core.jobs.progress import Progress
from blip_core.training.trackers import Trackers

LOG = "log.jsonl"
PAUSE = 10.0  # seconds between lines where there is no terminal for a bar


class Log:
    """The logs of a run in its folder, continued after `step` steps; entries of later steps are removed.

    `log.jsonl` has an object per line: `{"step", "epoch", "loss", ..., "learning_rate", "images_per_second"}` of
    training, the mean over the steps since the last line, and `{"step", "epoch", "validation": {...}}` after an epoch.
    `log.csv` has the same as a table, written at each validation and at the end. `problems` says how many there are so
    far, for the progress that `blip status` reads.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        steps: int,
        every: int,
        trackers: Trackers,
        problems: Callable[[], int] = lambda: 0,
        events: bool = False,
    ):
        self.every, self._trackers = every, trackers
        self._path = folder / LOG
        _drop_after(self._path, step)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()
        self._sums: dict[str, float] = {}
        self._count = self._images = 0
        self._since = time.monotonic()
        bar: dict[str, Any] = {"dynamic_ncols": True, "smoothing": 0.1, "events": events}
        self._progress = Progress("train", steps, folder, done=step, unit="step", problems=problems, **bar)
        self._said = -math.inf
        self._begun, self._first, self._steps = time.monotonic(), step, steps

    def step(self, step: int, epoch: int, losses: dict[str, float], rate: float, images: int) -> None:
        """Add one step, the `step`th done, in which `images` pictures were seen; written every `every` steps."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._images += images
        self._progress.step()
        if self._count == self.every:
            self.flush(step, epoch, rate)

    def flush(self, step: int, epoch: int, rate: float) -> None:
        """Write the means of the steps since the last line."""
        if not self._count:
            return
        now = time.monotonic()
        means = {name: value / self._count for name, value in self._sums.items()}
        means |= {"learning_rate": rate, "images_per_second": self._images / max(now - self._since, 1e-9)}
        self._write({"step": step, "epoch": epoch, **means})
        self._trackers.scalars(step, {f"train/{name}": value for name, value in means.items()})
        said = {"loss": f"{means['loss']:.4f}", "lr": f"{rate:.2e}", "img/s": f"{means['images_per_second']:.1f}"}
        self._progress.bar.set_postfix(said, refresh=False)
        if self._progress.bar.disable and now - self._said >= PAUSE:
            self._said = now
            said["left"] = str(
                timedelta(seconds=round((now - self._begun) * (self._steps - step) / (step - self._first)))
            )
            self.say(f"step {step}/{self._steps}: " + ", ".join(f"{name} {value}" for name, value in said.items()))
        self._sums, self._count, self._images, self._since = {}, 0, 0, now

    def validation(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Write the metrics of the validation data after an epoch."""
        self._write({"step": step, "epoch": epoch, "validation": metrics})
        self._trackers.scalars(step, {f"validation/{name}": value for name, value in metrics.items()})
        write_csv(self._path)
        self.say(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        self._since = time.monotonic()

    def say(self, message: str) -> None:
        """Print a line on standard error, above the bar."""
        tqdm.write(f"blip: {message}", file=sys.stderr)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close the files."""
        self._progress.__exit__(kind, error, trace)
        with errors_named(self._file.name):  # what a full disk did not take is written once more
            self._file.close()
        write_csv(self._path)
        self._trackers.close()

    def _write(self, entry: dict[str, Any]) -> None:
        with errors_named(self._file.name):
            self._file.write(json.dumps(_finite(entry)) + "\n")
            self._file.flush()


class NoLog(Log):
    """The log of all processes but the first: it writes nothing."""

    def __init__(self) -> None:
        pass

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    step = flush = validation = say = __enter__ = __exit__ = _ignore  # type: ignore[assignment]


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(log: Path) -> None:
    """Write the lines of a log as a table beside it; validations have columns of their own."""
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        found = {f"validation_{name}": value for name, value in entry.pop("validation", {}).items()}
        rows.append({**entry, **found})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(log.with_suffix(".csv")) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def _drop_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, and an incomplete last line, which a killed run leaves."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
