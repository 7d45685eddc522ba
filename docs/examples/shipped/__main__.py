"""Make the shipped model in one command: fetch and draw, train in four stages, pack, measure.

    python -m docs.examples.shipped FOLDER

On two cores it takes about four hours, and 500 MB of disk. What is done is not done again; a stage of training that
was stopped goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from docs.examples.shipped import drawings, measure, pack, prepare, run

HERE = Path(__file__).parent
STAGES = {
    "small": ("pretrain", "pretrain.json", "new/config.json"),
    "longer": ("pretrain", "pretrain.json", "small"),
    "large": ("pretrain", "pretrain.json", "longer"),
    "questions": ("vqa", "vqa.json", "large"),
}
"""For each stage, which has its settings in NAME.toml: the task, the data, and the model that it begins with."""

PROCESSES = {"small": "1", "longer": "2", "large": "2", "questions": "2"}
"""How many processes share a batch."""


def main(folder: Path) -> None:
    """Do all steps."""
    drawings.main(folder)
    if not (folder / "new" / "config.json").exists():
        prepare.main(folder)
    for stage, (task, data, model) in STAGES.items():
        options = ["--data", folder / data, "--model", folder / model, "--output", folder / stage]
        options += ["--config", HERE / f"{stage}.toml"]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", PROCESSES[stage]]
        command += [
            "-m",
            "blip_core.cli",
            "train",
            task,
            "--recipe",
            task,
            *map(str, options),
            "--engine",
            "pt",
            "--resume",
        ]
        subprocess.run(command, check=True)
    pack.main(folder)
    measure.main(folder)


if __name__ == "__main__":
    run(main)
