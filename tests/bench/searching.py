"""Seconds and memory of a search over 1,000,000 features of 256 values, mapped from an index on disk.

`python -m tests.bench.searching [--pictures N] [--queries N ...] [--hole]`. The features are random and normalised. An
index is written to a temporary folder (about 1 GB), then a fresh process opens it and searches it for each number of
queries, several times. Memory is what the process has of its own (RssAnon, KiB -> MiB) and of mapped files (RssFile),
of which the system may take the pages back. With `--hole`, one picture in a thousand is left out of the search, so that
rows have to be copied, a chunk at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from blip_core.search import FeatureIndex

WIDTH = 256

CHILD = """
import json, re, sys, time
import numpy as np
from blip_core.search import FeatureIndex, find, nearest

def resident():
    text = open("/proc/self/status").read()
    return {name: int(re.search(rf"{name}:\\s+(\\d+)", text)[1]) / 1024 for name in ("RssAnon", "RssFile")}

folder, hole = sys.argv[1], sys.argv[2] == "hole"
figures = {"import": resident()}
start = time.perf_counter()
index = FeatureIndex(folder, folder, "random", 256)
features = index.features
figures["open_s"] = time.perf_counter() - start
rows = np.flatnonzero(np.arange(len(features)) % 1000) if hole else None
noise = np.random.default_rng(1)
for count in map(int, sys.argv[3:]):
    queries = noise.normal(size=(count, 256)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        nearest(queries, features, 128, rows)
        seconds.append(time.perf_counter() - start)
    figures[f"{count} queries"] = {"first_s": seconds[0], "median_s": float(np.median(seconds[1:])), **resident()}
start = time.perf_counter()
entries = index.entries()
figures["entries_s"] = time.perf_counter() - start
start = time.perf_counter()
find(queries[:1], features, entries, 128)
figures["find_s"] = time.perf_counter() - start
figures["with names"] = resident()
print(json.dumps(figures))
"""


def write_index(folder: Path, pictures: int) -> float:
    """Write an index of random features; returns the seconds that it took."""
    noise, start = np.random.default_rng(0), time.perf_counter()
    with FeatureIndex(folder, folder, "random", WIDTH) as index:
        for first in range(0, pictures, 10_000):
            names = [f"album {i // 1000:04}/picture {i:07}.jpg" for i in range(first, min(first + 10_000, pictures))]
            features = noise.standard_normal((len(names), WIDTH), np.float32)
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            index.add(dict.fromkeys(names, ("123456 1700000000000000000", 0)), features)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--hole", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = write_index(Path(folder), args.pictures)
        size = (Path(folder) / "blip-features.npy").stat().st_size / 2**20
        print(f"{args.pictures} features of {WIDTH}: {size:.0f} MiB, written in {seconds:.1f} s")
        command = [sys.executable, "-c", CHILD, folder, "hole" if args.hole else "", *map(str, args.queries)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    before = figures["import"]["RssAnon"]
    print(f"opened in {figures['open_s']:.3f} s; RssAnon after imports {before:.0f} MiB")
    for count in args.queries:
        found = figures[f"{count} queries"]
        print(
            f"{count} queries: {found['median_s']:.3f} s (first {found['first_s']:.3f} s), RssAnon "
            f"{found['RssAnon'] - before:+.0f} MiB, RssFile {found['RssFile']:.0f} MiB"
        )
    print(
        f"names read in {figures['entries_s']:.1f} s, a search with them {figures['find_s']:.1f} s, RssAnon "
        f"{figures['with names']['RssAnon'] - before:+.0f} MiB"
    )


if __name__ == "__main__":
    main()
