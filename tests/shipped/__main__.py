"""Make the shipped model in one command: fetch and draw, train in three stages, pack, measure.

    python -m tests.shipped FOLDER

On two cores it takes about two hours, and 500 MB of disk. What is done is not done again; a stage of training that
was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from blip_core.cli import main as blip
from tests.shipped import drawings, evaluate, pack, prepare

HERE = Path(__file__).parent
STAGES = {
    "small": ("pretrain", "pretrain.json", "new/config.json"),
    "large": ("pretrain", "pretrain.json", "small"),
    "questions": ("vqa", "vqa.json", "large"),
}
"""For each stage, which has its settings in NAME.toml: the task, the data, and the model that it begins with."""


def main(folder: Path) -> None:
    """Do all steps."""
    drawings.main(folder)
    if not (folder / "new" / "vocab.txt").exists():
        prepare.main(folder)
    for stage, (task, data, model) in STAGES.items():
        options = ["--data", folder / data, "--model", folder / model, "--output", folder / stage]
        options += ["--config", HERE / f"{stage}.toml"]
        if code := blip(["train", task, *map(str, options), "--framework", "pt", "--resume"]):
            sys.exit(code)
    pack.main(folder)
    evaluate.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
