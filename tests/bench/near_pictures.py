"""Seconds that it takes to find near-duplicates among pictures that all differ, which takes longest.

python -m tests.bench.near_pictures [--pictures 10000 20000 40000] [--width 256]
"""

import argparse
import resource
import time

import numpy as np

from blip_core.capfilt.near_duplicates import find_near

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    for pictures in args.pictures:
        features = np.random.default_rng(0).normal(size=(pictures, args.width)).astype(np.float16)
        begin = time.perf_counter()
        assert not find_near(features, 0.95)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        million = seconds * (1e6 / pictures) ** 2 / 60
        print(
            f"{pictures:9,} pictures: {seconds:7.2f} s, a million: {million:5.0f} min; peak {peak:.0f} MiB", flush=True
        )
