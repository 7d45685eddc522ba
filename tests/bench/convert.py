"""Time and memory of conversions between all formats, on the checkpoint of a base captioner (896 MB).

    python -m tests.bench.convert [FOLDER] [--from FORMAT ...] [--to FORMAT ...]

FOLDER keeps the sources for the next run. Each conversion runs in a process of its own. Its time is that of `convert`,
with the verification, against copying and syncing the source file in turns, medians of both; its memory is the growth
of RssAnon, which leaves out mapped files, against the largest tensor (94 MB).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np

FORMATS = ("safetensors", "pytorch_model.bin", "pth", "tf_model.h5", "weights.h5")
ROUNDS = 5
HEAD = "BlipForConditionalGeneration"


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(source: str, destination: str, to: str) -> dict[str, float]:
    """Convert, and return seconds and the greatest growth of anonymous memory, frameworks already imported."""
    from conversion import convert

    if {".bin", ".pth"} & {Path(source).suffix, Path(to).suffix, f".{to}"}:
        import torch  # noqa: F401  # its own memory is not that of the conversion
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    start = anonymous()
    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    try:
        convert(source, destination, to)
        seconds = time.perf_counter() - began
    finally:
        done.set()
        thread.join()
    return {"seconds": seconds, "grown": peak[0] - start}


def copy_seconds(source: Path, target: Path) -> float:
    """Seconds to copy a file and to have it on the disk."""
    began = time.perf_counter()
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def make_checkpoint(folder: Path) -> None:
    """A base captioner with random weights."""
    from blip_core import BlipConfig
    from blip_core.saving import write_pretrained
    from blip_core.weights import parameters

    noise = np.random.default_rng(0)
    config = BlipConfig.base()
    rows = parameters(HEAD, config)
    write_pretrained(folder, HEAD, config, rows, lambda row: noise.standard_normal(row.shape, np.float32) * 0.02)


def main() -> None:
    """Convert from each format to each, or some of them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--from", dest="sources", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--to", nargs="+", choices=FORMATS, default=FORMATS)
    args = parser.parse_args()
    root = args.folder or Path(tempfile.mkdtemp())
    sources = {to: root / to for to in FORMATS}
    if not sources["safetensors"].exists():
        make_checkpoint(sources["safetensors"])
    for to in args.sources:
        if not sources[to].exists():
            run(sources["safetensors"], sources[to], to)
    print(f"{'from':<20}{'to':<20}{'copy s':>8}{'convert s':>10}{'ratio':>7}{'grown MB':>10}")
    for name in args.sources:
        weights = max(sources[name].iterdir(), key=lambda path: path.stat().st_size)
        for to in args.to:
            rounds = [(copy_seconds(weights, root / "copy"), run(weights, root / "out", to)) for _ in range(ROUNDS)]
            copy = median(seconds for seconds, _ in rounds)
            found = {key: median(one[key] for _, one in rounds) for key in ("seconds", "grown")}
            ratio = found["seconds"] / copy
            print(
                f"{name:<20}{to:<20}{copy:8.2f}{found['seconds']:10.2f}{ratio:7.2f}{found['grown'] / 1e6:10.0f}",
                flush=True,
            )


def run(source: Path, destination: Path, to: str) -> dict[str, float]:
    """Measure one conversion in a process of its own; `out` is removed again."""
    command = [sys.executable, "-m", "tests.bench.convert", "--one", str(source), str(destination), to]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if destination.name == "out":
        shutil.rmtree(destination)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
