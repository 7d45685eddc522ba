"""Speed and memory of this checkout beside an older one, in pairs of runs that alternate.

    git worktree add .bench/older REVISION
    python -m tests.bench.two_versions .bench/older [--system ours-pt] [--pairs 7]

Prints, for every case, the median of the older checkout's seconds divided by ours in the same pair (above 1: we are
faster), with the least and the greatest ratio, and whether both gave the same tokens and numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.speed_data import CACHE, ROOT, prepare

CASES = {
    "captioner": ["vision 1", "vision 4", "greedy 1", "greedy 8", "beams 1", "decode 20"],
    "answerer": ["vqa"],
    "matcher": ["itm 64"],
}


class Worker:
    """A process of one checkout's `speed_worker`, which answers a case with a line of JSON."""

    def __init__(self, checkout: Path, *words: str):
        environment = os.environ | {"PYTHONPATH": str(checkout), "BENCH_CACHE": str(CACHE), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "tests.bench.speed_worker", *words]
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
        )

    def answer(self, case: str = "") -> Any:
        assert self.process.stdin
        assert self.process.stdout
        if case:
            print(case, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, help="folder of the older checkout")
    parser.add_argument("--system", default="ours-pt", choices=["ours-pt", "ours-tf"])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", default="2")
    arguments = parser.parse_args()
    prepare()
    checkouts = [arguments.older.resolve(), ROOT]
    for head, names in CASES.items():
        workers = [Worker(path, arguments.system, head, arguments.threads, "cpu") for path in checkouts]
        assert [worker.answer() for worker in workers] == ["ready", "ready"]
        for name in names:
            first = [worker.answer(name) for worker in workers]  # which compiles, and fills the processor's caches
            pairs = [[worker.answer(name)["seconds"] for worker in workers] for _ in range(arguments.pairs)]
            tell(name, [old / new for old, new in pairs], first[0]["digest"] == first[1]["digest"])
        for worker in workers:
            worker.process.communicate()
    words = (arguments.system, "start", arguments.threads, "cpu")
    starts = [[Worker(path, *words).answer() for path in checkouts] for _ in range(3)]
    for name in starts[0][0]:
        tell(name, [old[name] / new[name] for old, new in starts])


def tell(name: str, ratios: list[float], equal: bool | None = None) -> None:
    spread = f"{statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{name:14} {spread}", {True: "equal results", False: "OTHER RESULTS"}.get(equal, ""), flush=True)


if __name__ == "__main__":
    main()
