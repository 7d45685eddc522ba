"""Numbers of a run for trackers that `accelerate` knows, such as TensorBoard's own writer and wandb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = "blip"


class Trackers:
    """Open trackers, none for no names.

    Args:
        names: Those of `accelerate`, joined by commas, such as "wandb" or "mlflow,tensorboard".
        folder: Where those write that need a folder.
        run: What the run was started with.
        step: Where it goes on; TensorBoard then ignores later steps of earlier files.

    Raises:
        ValueError: Where accelerate, or a tracker's own package, is not installed, and for an unknown name.
    """

    def __init__(self, names: str, folder: Path, run: Mapping[str, Any], step: int = 0):
        self._accelerator: Any = None
        if not names:
            return
        check_trackers(names)
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=True, log_with=names.split(","), project_dir=str(folder))
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in run.items()
        }
        options = {"tensorboard": {"purge_step": step + 1}} if step else {}
        self._accelerator.init_trackers(PROJECT, config=plain, init_kwargs=options)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers by their names."""
        if self._accelerator is not None:
            self._accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Let the trackers finish what they send."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def check_trackers(names: str) -> None:
    """Raise `ValueError` for trackers that cannot be used here, saying why."""
    try:
        from accelerate import tracking
    except ImportError:
        raise ValueError(
            'report_to needs accelerate, which is not installed: pip install "blip-duo[finetune]" and the tracker'
        ) from None
    installed = {str(name) for name in tracking.get_available_trackers()}
    for name in names.split(","):
        if name not in tracking.LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(tracking.LOGGER_TYPE_TO_CLASS))
            raise ValueError(f"report_to must be of {known}, joined by commas, got {name!r}.")
        if hasattr(tracking.LoggerType, name.upper()) and name not in installed:
            raise ValueError(f"report_to: {name} is not installed; pip install {name}, or leave it out.")
