"""Near-duplicates in cells beside comparing all: seconds, memory, and the share of pairs that cells find.

    python -m tests.bench.near_cells [--pictures 1000000] [--width 256] [--exact]

Features are those of groups that look alike, a tenth of the pictures being look-alikes of others. Without `--exact`
the pairs that were made stand in for those that comparing all finds, which takes hours for a million.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from blip_core.capfilt.near_duplicates import find_near, find_near_in_cells
from blip_core.inference.cells import find_cells

LIMIT = 0.95
CHUNK = 2**16


def features(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, float16 (count, width), and the rows that were made like an earlier one, with cosines above LIMIT."""
    noise = np.random.default_rng(0)
    groups = noise.normal(size=(max(1, count // 500), width)).astype(np.float32)
    rows = np.empty((count, width), np.float16)
    for start in range(0, count, CHUNK):
        some = min(CHUNK, count - start)
        part = groups[noise.integers(0, len(groups), some)] + noise.normal(size=(some, width)).astype(np.float32)
        rows[start : start + some] = part / np.linalg.norm(part, axis=1, keepdims=True)
    copies = np.sort(noise.choice(np.arange(count // 2, count), count // 10, replace=False))
    strength = noise.uniform(0, 0.28, (len(copies), 1)) / width**0.5
    changes = noise.normal(size=(len(copies), width)) * strength
    rows[copies] = rows[noise.integers(0, count // 2, len(copies))] + changes.astype(np.float16)
    return rows, copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--exact", action="store_true")
    args = parser.parse_args()
    for pictures in args.pictures:
        rows, made = features(pictures, args.width)
        begin = time.perf_counter()
        middles = find_cells(rows, "This benchmark")
        learned = time.perf_counter() - begin
        found = find_near_in_cells(rows, LIMIT, middles)
        seconds = time.perf_counter() - begin
        wanted = find_near(rows, LIMIT).keys() if args.exact else set(made.tolist())
        share = len(found.keys() & wanted) / len(wanted)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{pictures:9,} pictures, {len(middles):,} cells: {seconds:.1f} s, {learned:.1f} s of them to find cells; "
            f"{len(found):,} dropped, {share:.4%} of the {len(wanted):,} {'exact' if args.exact else 'made'}; "
            f"peak {peak:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
