"""The folder of a run: what it was started with, its checkpoints, and the model to use.

OUTPUT/config.json, model.safetensors ...    the model to use, a folder in the Hugging Face layout
OUTPUT/run.json                              what the run was started with
OUTPUT/log.jsonl, events.out.tfevents.*      the logs
OUTPUT/checkpoints/step-00000120/            model, optimizer.safetensors, state.json
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.safetensors_file import write_arrays
from blip_core.checkpoints.saving import write_pretrained
from blip_core.files import differences, read_json, to_disk, write_json
from blip_core.training.engine import Engine
from blip_core.training.logs import LOG
from blip_core.training.settings import FREE
from blip_core.training.start import Start

RUN, STATE, OPTIMIZER, CHECKPOINTS = "run.json", "state.json", "optimizer.safetensors", "checkpoints"


@dataclass
class Position:
    """How far a run is: `step` steps are done, and `best` is the best validation so far (None: none yet).

    `batch` is how many examples a step has, over all devices.
    """

    step: int = 0
    batch: int | None = None
    best: float | None = None
    best_epoch: int | None = None


class RunFolder:
    """The output folder of a run. Only the first of several processes writes."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()

    def begin(self, run: Mapping[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Check whether a run with these facts may begin here; returns whether there is one to go on with.

        Raises `ValueError` for a folder that holds a run, unless told to resume or overwrite it; for a run that was
        started with something else, naming the difference; and for a folder of other files.
        """
        if resume and overwrite:
            raise ValueError("Choose one of resume and overwrite.")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; the output of a run needs a folder.")
        if not (self.path / RUN).exists():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise ValueError(f"{self.path} holds other files and no run; name a new or empty folder.")
            return False
        if overwrite:
            return False
        if not resume:
            raise ValueError(
                f"{self.path} already holds a run; resume it, overwrite it (--resume, --overwrite), or name another "
                "folder."
            )
        if different := _differences(read_json(self.path / RUN), run):
            raise ValueError(
                f"{self.path} holds a run that was started otherwise: {'; '.join(different)}. "
                "Give the same again to resume it, or name another folder."
            )
        return True

    def clear(self, run: Mapping[str, Any]) -> None:
        """Begin anew: remove what an earlier run wrote, and note what this one is started with."""
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        for old in [self.path / LOG, *self.path.glob("events.out.tfevents.*"), *self.path.glob("model*.safetensors*")]:
            old.unlink(missing_ok=True)
        write_json(self.path / RUN, dict(run))

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, the latest first. One gets its name only when all of it is on the disk."""
        return sorted((self.path / CHECKPOINTS).glob("step-*"), reverse=True)

    def last(self) -> tuple[Path, Position] | None:
        """The last checkpoint that can be read, and its position; None where there is none.

        Raises `ValueError` where there are some and none can be read: to begin anew would remove them.
        """
        for folder in self.checkpoints():
            try:
                position = Position(**read_json(folder / STATE)["position"])
                open_checkpoint(folder)
                open_checkpoint(folder / OPTIMIZER)
                return folder, position
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason = f"{folder.name}: {error}"
        if self.checkpoints():
            raise ValueError(
                f"None of the checkpoints in {self.path / CHECKPOINTS} can be read ({reason}); restore one to resume "
                "the run, or overwrite it (--overwrite)."
            )
        return None

    def save(self, engine: Engine, start: Start, position: Position, keep: int) -> None:
        """Write a checkpoint, and remove all but the last `keep`. All processes must call it."""
        folder = self.path / CHECKPOINTS / f"step-{position.step:08}"
        temporary = folder.with_name(f".{folder.name}")
        first = engine.rank == 0
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        write_model(engine, start, temporary)
        state = engine.optimizer_state()
        if first:
            write_arrays(temporary / OPTIMIZER, {name: np.asarray(array, order="C") for name, array in state.items()})
            write_json(temporary / STATE, {"position": asdict(position)})
            to_disk(temporary)  # a whole checkpoint survives a loss of power
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            for old in self.checkpoints()[keep:]:
                shutil.rmtree(old, ignore_errors=True)


def read_optimizer(folder: Path) -> dict[str, np.ndarray]:
    """The optimizer's state in a checkpoint."""
    return dict(open_checkpoint(folder / OPTIMIZER))


def write_model(engine: Engine, start: Start, folder: Path) -> None:
    """Write the model, its processor and its generation settings. All processes must call it; the first writes."""
    model = engine.model
    values = {row.name: engine.read(row) for row in model.table()}
    if engine.rank == 0:
        generation = model.generation_config if hasattr(model, "generate") else None
        start.processor.save_pretrained(folder)
        write_pretrained(
            folder,
            start.head,
            model.config,
            model.table(),
            lambda row: values[row.name],
            generation_config=generation,
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not as it was when a run began, but for the settings that may change."""
    before = {**old, **old.get("settings", {})}
    now = {**new, **new.get("settings", {})}
    return differences(before, now, {"settings", *FREE})
