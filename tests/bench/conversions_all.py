"""Every head, at base and large size, from every format into every other, with random weights.

    python -m tests.bench.conversions_all [--sizes base large] [--heads BlipModel ...]

For each head one walk goes through all ordered pairs of formats, each conversion starting from what the last one
wrote, and must come back to the bits it began with. (Each conversion compares what it wrote by itself, too.)
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np

from blip_core import BlipConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.parameters.heads import HEADS
from blip_core.parameters.models import Parameter, parameters
from conversion import convert
from tests.helpers.checkpoint_files import FORMATS, differences
from tests.helpers.random_models import head_config


def walk(formats: list[str]) -> list[str]:
    """A round trip from the first format that takes every step from one to another exactly once."""
    left = {one: [other for other in formats if other != one] for one in formats}
    path, trip = [formats[0]], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            trip.append(path.pop())
    return trip[::-1]


def noise(row: Parameter) -> np.ndarray:
    """Random numbers for a weight, which are the same under each of its names."""
    return np.random.default_rng(zlib.crc32(row.name.encode())).standard_normal(row.shape, np.float32)


def check(head: str, size: str, root: Path) -> str:
    """Take the walk with one head; returns a line of what was found."""
    config = head_config(head, getattr(BlipConfig, size)())
    rows = parameters(head, config)
    write_pretrained(root / "start", head, config, rows, noise)
    count = sum(np.prod(row.shape) for row in rows)
    trip = walk([to for to in FORMATS if to != "pth" or HEADS[head].original])
    began = time.perf_counter()
    source = root / "start"
    if head == "BlipForPreTraining":  # a conversion stores its decoder as a whole, which a save does not
        convert(source, root / "whole")
        source = root / "whole"
    last = source
    for step, to in enumerate(trip[1:]):
        target = root / f"step{step % 2}"
        convert(last, target, to, overwrite=True)
        last = target
    wrong = differences(source, last)
    seconds = time.perf_counter() - began
    shutil.rmtree(root)
    result = f"{len(wrong)} tensors differ: {wrong[:3]}" if wrong else "bit-identical"
    return f"{size:<6}{head:<30}{count / 1e6:7.1f} M  {len(trip) - 1:3} conversions {seconds:7.1f} s  {result}"


def main() -> None:
    """Print a line for each head and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["base", "large"], choices=["base", "large"])
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for size in args.sizes:
        for head in args.heads:
            with tempfile.TemporaryDirectory() as folder:
                print(check(head, size, Path(folder) / "walk"), flush=True)


if __name__ == "__main__":
    main()
