"""Time and memory of conversions between all formats, on the checkpoint of a base captioner (896 MB).

    python -m tests.bench.conversions [FOLDER] [--from FORMAT ...] [--to FORMAT ...]

FOLDER keeps the sources for the next run. Conversions take turns with copying and syncing the source file, each in a
process of its own that has imported the same, so that both find the machine as it is after a pause: a virtual machine
hands memory that it does not use back to its host, and is slower to take it than what was in use just before. The time
is that of `convert`, with the verification, against the copy's, medians of both; the memory is the growth of RssAnon,
which leaves out mapped files, against the largest tensor (94 MB).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np

from blip_core.files import to_disk

FORMATS = ("safetensors", "pytorch_model.bin", "pth", "tf_model.h5", "weights.h5")
ROUNDS = 5
HEAD = "BlipForConditionalGeneration"


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(source: str, destination: str, to: str, what: str) -> dict[str, float]:
    """Convert, or copy; return seconds and the greatest growth of anonymous memory, frameworks already imported."""
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
        if what == "copy":
            copy(Path(source), Path(destination))
        else:
            convert(source, destination, to)
        seconds = time.perf_counter() - began
    finally:
        done.set()
        thread.join()
    return {"seconds": seconds, "grown": peak[0] - start}


def copy(source: Path, folder: Path) -> None:
    """Copy a file into a new folder and have it on the disk."""
    folder.mkdir()
    shutil.copyfile(source, folder / source.name)
    to_disk(folder)


def make_checkpoint(folder: Path) -> None:
    """A base captioner with random weights."""
    from blip_core import BlipConfig
    from blip_core.checkpoints.saving import write_pretrained
    from blip_core.parameters.models import parameters

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
            rounds = [[run(weights, root / "out", to, what) for what in ("copy", "convert")] for _ in range(ROUNDS)]
            copied, converted = (median(found["seconds"] for found in turns) for turns in zip(*rounds, strict=True))
            grown = median(found["grown"] for _, found in rounds) / 1e6
            print(f"{name:<20}{to:<20}{copied:8.2f}{converted:10.2f}{converted / copied:7.2f}{grown:10.0f}", flush=True)


def run(source: Path, destination: Path, to: str, what: str = "convert") -> dict[str, float]:
    """Measure a conversion or a copy in a process of its own; `out` is removed again."""
    command = [sys.executable, "-m", "tests.bench.conversions", "--one", str(source), str(destination), to, what]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if destination.name == "out":
        shutil.rmtree(destination)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
