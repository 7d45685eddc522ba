"""The folder of a run: what it was started with, its checkpoints, and the model to use.

OUTPUT/config.json, model.safetensors ...    the model to use, a folder in the Hugging Face layout
OUTPUT/run.json                              what the run was started with
OUTPUT/log.jsonl, log.csv                    the logs
OUTPUT/checkpoints/step-00000120/            model, optimizer.safetensors, state.json
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints import adapters, open_checkpoint
from blip_core.checkpoints.safetensors_file import write_arrays
from blip_core.checkpoints.saving import write_pretrained
from blip_core.files import read_json, to_disk, write_json
from blip_core.jobs.sharding import find_run
from blip_core.parameters.heads import HEADS
from blip_core.stores import on_disk
from blip_core.training.logs import LOG
from blip_core.training.lora import SCALE
from blip_core.training.protocol import Trainer
from blip_core.training.settings import FREE, Settings
from blip_core.training.start import Start

RUN, STATE, OPTIMIZER, CHECKPOINTS = "run.json", "state.json", "optimizer.safetensors", "checkpoints"
REPLAY = "replay"
"""The folder of mixed pictures."""


@dataclass
class Position:
    """How far a run is: `step` steps are done, and `best` is the best validation so far, of epoch `best_epoch`.

    `batch` is how many examples a step has, over all devices; `first` the loss of the validation data before the first
    step, where it was measured; `worse` how many validations there were since the best.
    """

    step: int = 0
    batch: int | None = None
    best: float | None = None
    best_epoch: int | None = None
    first: float | None = None
    worse: int = 0


class RunFolder:
    """The output folder of a run. Only the first of several processes writes."""

    def __init__(self, path: str | Path):
        self.path = on_disk(path).expanduser()

    def begin(self, run: Mapping[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Check whether a run with these facts may begin here; return whether there is one to resume.

        Raises `ValueError` for a folder that holds a run, unless told to resume or overwrite it; for a run that was
        started with other facts, naming the difference; and for a folder of other files.
        """
        stored = self.stored(resume=resume, overwrite=overwrite)
        over = stored is None and overwrite and (self.path / RUN).exists()
        return not over and find_run(self.path, RUN, run, free=FREE)

    def stored(self, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Return the settings of the run to resume, None where there is none; raises as `begin` for what is there."""
        if resume and overwrite:
            raise ValueError("Choose one of resume and overwrite.")
        if not (self.path / RUN).exists() or overwrite:
            return None
        if not resume:
            raise ValueError(
                f"{self.path} already holds a run; resume it, overwrite it (--resume, --overwrite), or name another "
                "folder."
            )
        facts, names = read_json(self.path / RUN), {row.name for row in fields(Settings)}
        return {name: value for name, value in facts.items() if name in names}

    def clear(self, run: Mapping[str, Any]) -> None:
        """Remove what an earlier run wrote, and record the facts of this one."""
        for name in (CHECKPOINTS, REPLAY):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for old in [self.path / LOG, *self.path.glob("*model*.safetensors*")]:
            old.unlink(missing_ok=True)
        write_json(self.path / RUN, dict(run))

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, the latest first. One is renamed to this name when all of it is on disk."""
        return sorted((self.path / CHECKPOINTS).glob("step-*"), reverse=True)

    def last(self) -> tuple[Path, Position] | None:
        """Return the last checkpoint that can be read, and its position; None where there is none.

        Raises `ValueError` where there are some and none can be read: a new run would remove them.
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

    def save(self, trainer: Trainer, start: Start, position: Position, keep: int) -> None:
        """Write a checkpoint and remove all but the last `keep`. All processes must call it; the first writes."""
        folder = self.path / CHECKPOINTS / f"step-{position.step:08}"
        temporary = folder.with_name(f".{folder.name}")
        first = trainer.rank == 0
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        write_model(trainer, start, temporary)
        state = trainer.optimizer_state()
        if first:
            write_arrays(temporary / OPTIMIZER, {name: np.asarray(array, order="C") for name, array in state.items()})
            write_json(temporary / STATE, {"position": asdict(position)})
            to_disk(temporary)  # a whole checkpoint survives a loss of power
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            for old in self.checkpoints()[keep:]:
                shutil.rmtree(old, ignore_errors=True)


def read_optimizer(folder: Path) -> dict[str, np.ndarray]:
    """Read the optimizer's state of a checkpoint."""
    return dict(open_checkpoint(folder / OPTIMIZER))


def write_model(trainer: Trainer, start: Start, folder: Path) -> None:
    """Write the model or, of LoRA, the adapter, its processor and its generation settings.

    All processes must call it; the first writes.
    """
    model = trainer.model
    values = {row.name: trainer.read(row) for row in trainer.lora or model.table()}
    if trainer.rank == 0:
        generation = model.generation_config if HEADS[start.head].generates else None
        start.processor.save_pretrained(folder)
        if trainer.lora:
            base = str(Path(start.name).resolve()) if Path(start.name).exists() else start.name
            adapters.write(folder, values, min(trainer.lora[0].shape), SCALE, base, start.revision)
            if generation is not None:
                generation.save_pretrained(folder)
            return
        write_pretrained(
            folder,
            start.head,
            model.config,
            model.table(),
            lambda row: values[row.name],
            generation_config=generation,
        )
