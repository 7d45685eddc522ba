"""The same fine-tuning in PyTorch and in TensorFlow, with several seeds: do both reach the same?

    python -m docs.examples.shipped.seeds FOLDER

The model in the package becomes a captioner of Noto: it learns every other drawing, and is measured on the rest, by
captions that are exactly right and by CIDEr. Prints a table of Markdown; results are kept in FOLDER/seeds, so that a
repeated command goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from blip_core.datasets import clean_caption
from blip_core.files import read_json
from blip_core.hub import SHIPPED
from docs.examples.shipped import run

SEEDS = (0, 1, 2)
EPOCHS, BATCH, RATE = 5, 64, 3e-5
SETTINGS = {
    "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "prompt": '""', "background": "white",
    "schedule_every": "step", "cache": 100, "image_size": "model",
}  # fmt: skip


def main(folder: Path) -> None:
    """Train and measure, each run in a process of its own, and print the table."""
    place = folder / "seeds"
    place.mkdir(exist_ok=True)
    entries = json.loads((folder / "held_out.json").read_text())
    for name, part in {"train": entries[::2], "test": entries[1::2]}.items():
        (place / f"{name}.json").write_text(json.dumps(part))
    print("| | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean |\n| --- |" + " --- |" * (len(SEEDS) + 1))
    before = measure(folder, SHIPPED, place / "before.json")
    print(f"| before | {' | '.join(shown(before) for _ in SEEDS)} | {shown(before)} |")
    for framework, title in (("pt", "PyTorch"), ("tf", "TensorFlow")):
        found = []
        for seed in SEEDS:
            run = place / f"{framework}-{seed}"
            train(folder, run, framework, seed)
            found.append(measure(folder, run, place / f"{run.name}.json"))
        print(f"| {title} | {' | '.join(map(shown, [*found, np.mean(found, axis=0)]))} |", flush=True)


def train(folder: Path, run: Path, framework: str, seed: int) -> None:
    """Fine-tune with `blip train`."""
    options = {"--data": run.parent / "train.json", "--image-root": folder, "--model": SHIPPED, "--output": run}
    options |= {"--engine": framework, "--seed": seed}
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    blip("train", "caption", "--recipe", "caption", *options_of(options), *settings, "--resume")


def measure(folder: Path, model: Path, output: Path) -> np.ndarray:
    """The share of captions that are exactly right, and CIDEr, by PyTorch."""
    if not output.exists():
        options = {"--data": output.parent / "test.json", "--image-root": folder, "--model": model, "--output": output}
        blip(
            "evaluate",
            "caption",
            *options_of(options),
            "--background",
            "white",
            "--engine",
            "pt",
            "--batch-size",
            "64",
        )
    result = read_json(output)
    exact = np.mean([one["caption"] == clean_caption(one["references"][0]) for one in result["examples"]])
    return np.array([exact, result["metrics"]["cider"]])


def options_of(values: dict[str, object]) -> list[str]:
    """Command-line options."""
    return [str(text) for pair in values.items() for text in pair]


def blip(*arguments: str) -> None:
    """Run a command of `blip`."""
    subprocess.run([sys.executable, "-m", "blip_core.cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def shown(values: np.ndarray) -> str:
    """What a cell of the table says."""
    return f"{values[0]:.3f}, {values[1]:.2f}"


if __name__ == "__main__":
    run(main)
