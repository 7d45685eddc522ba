"""How fast ours and others' BLIP are: `make bench`, or a part of it with

    python -m tests.bench.speed [--systems ours-pt hf-pt] [--cases vision greedy vqa] [--repeats 5] [--write]

Base size, random weights, photographs of 384 pixels, float32. Every system runs in a process of its own; all take a
case in turn, again and again, and the medians are compared. `--write` puts the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blip_core.files import write_json
from tests.bench.speed_data import ROOT, prepare
from tests.bench.speed_report import Results, report

SYSTEMS = ("ours-pt", "ours-optimized", "ours-bfloat16", "ours-int8", "ours-tf", "hf-pt", "hf-tf", "hf-new", "openvino")
CASES = {
    "vision 1": "captioner", "vision 4": "captioner", "greedy 1": "captioner", "greedy 8": "captioner",
    "beams 1": "captioner", "beams 8": "captioner", "decode 4": "captioner", "decode 20": "captioner",
    "vqa": "answerer", "itm 64": "matcher", "itm 8": "matcher", "preprocess": "preprocess",
    "preprocess fast": "preprocess", "preprocess one": "preprocess", "preprocess fast one": "preprocess",
    "start": "start",
}  # fmt: skip
"""The head of each case; `start` is a process from its first import to its first caption."""


def applies(system: str, case: str) -> bool:
    """Say whether a system can run a case."""
    if system == "openvino":
        return case.startswith("vision")
    if case.startswith("preprocess"):
        return system in ("ours-pt", "hf-new") or ("fast" not in case and system == "hf-pt")
    if case.startswith("decode"):
        return system.startswith("ours")
    if case.startswith("itm"):
        return (case == "itm 64") == system.startswith("ours")
    return not (system == "hf-tf" and case.startswith(("beams", "vqa")))  # its beam search crashes


def python_of(system: str, args: argparse.Namespace) -> str:
    """The interpreter of a system's environment."""
    if system.startswith("ours"):
        return sys.executable
    return str(args.newest if system in ("hf-new", "openvino") else args.oracle)


class Worker:
    """The process of a system with one head loaded."""

    def __init__(self, system: str, head: str, args: argparse.Namespace):
        more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(args.threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
        more |= {"TF_USE_LEGACY_KERAS": "1"} if system == "hf-tf" else {}
        self.process = subprocess.Popen(
            [python_of(system, args), "-m", "tests.bench.speed_worker", system, head, str(args.threads), args.device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=args.log, text=True, cwd=ROOT,
            env=os.environ | more,
        )  # fmt: skip

    def read(self) -> Any:
        """The next answer."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line[0] in '{"':
                return json.loads(line)
        return {"error": "the process ended"}

    def run(self, case: str) -> dict[str, Any]:
        """Run a case once."""
        assert self.process.stdin
        print(case, file=self.process.stdin, flush=True)
        return self.read()


@contextmanager
def worker(system: str, head: str, args: argparse.Namespace) -> Iterator[Worker]:
    """A worker that ends with the block."""
    found = Worker(system, head, args)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()


def measure(head: str, args: argparse.Namespace, results: Results) -> None:
    """All cases of one head: adds for each case and system the seconds, and what came out."""
    wanted = [case for case in args.cases if CASES[case] == head]
    systems = [system for system in args.systems if any(applies(system, case) for case in wanted)]
    if head == "start":
        answers: dict[str, list[Any]] = {system: [] for system in systems}
        for _ in range(args.repeats + 1):  # the first brings the files into memory
            for system in systems:
                with worker(system, head, args) as process:
                    answers[system].append(process.read())
        for system, given in answers.items():
            for name in given[0]:
                figures = (
                    {"seconds": statistics.median(one[name] for one in given[1:])} if name != "error" else given[0]
                )
                results.setdefault(name, {})[system] = figures
        return results
    with ExitStack() as stack:
        workers = {system: stack.enter_context(worker(system, head, args)) for system in systems}
        for system, process in list(workers.items()):
            if process.read() != "ready":
                print(f"{system} cannot be measured with a {head}", file=sys.stderr)
                del workers[system]
        for case in wanted:
            runs: dict[str, list[dict[str, Any]]] = {s: [] for s in workers if applies(s, case)}
            for _ in range(1 + args.repeats):  # the first is to warm up
                for system in runs:
                    runs[system].append(workers[system].run(case))
            for system, answers_of in runs.items():
                good = [one["seconds"] for one in answers_of[1:] if "seconds" in one]
                results.setdefault(case, {})[system] = (
                    {"seconds": statistics.median(good), "digest": answers_of[0]["digest"]} if good else answers_of[0]
                )
                print(f"{case:<16}{system:<14}{results[case][system]}", file=sys.stderr, flush=True)
            if args.results:
                write_json(args.results, {"cases": results})


def machine(args: argparse.Namespace) -> dict[str, str]:
    """The processor, its memory, and the versions of what was compared."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in info.get("flags", "").split() if flag.startswith(("avx512", "amx", "avx_vnni", "avx2"))]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    code = "import transformers; print(transformers.__version__)"
    others = {
        name: subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
        for name, python in (("transformers", args.oracle), ("newest transformers", args.newest))
        if Path(python).exists()
    }
    return {
        "processor": f"{info.get('model name', platform.processor())} (family {info.get('cpu family')}, model "
        f"{info.get('model')}), {os.cpu_count()} cores, {memory:.0f} GiB",
        "instructions": " ".join(flags),
        "threads": str(args.threads),
        "versions": ", ".join(
            [f"{name} {version(name)}" for name in ("torch", "tensorflow", "keras", "numpy", "pillow")]
            + [f"{name} {found}" for name, found in others.items() if found]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="names, or how they begin: vision, greedy ...")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for PyTorch; TensorFlow takes a GPU by itself")
    parser.add_argument("--oracle", default=ROOT / ".venv-oracle/bin/python", help="Python with transformers 4.57.6")
    parser.add_argument("--newest", default=ROOT / ".venv-newest/bin/python", help="Python with the newest one")
    parser.add_argument("--results", type=Path, help="a JSON file that results are kept in, to join several runs")
    parser.add_argument(
        "--log", type=argparse.FileType("w"), default=subprocess.DEVNULL, help="what processes complain"
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    args.cases = [case for case in CASES if any(case.startswith(name) for name in args.cases)]
    args.systems = [system for system in args.systems if Path(python_of(system, args)).exists()]
    prepare()
    kept = json.loads(args.results.read_text()) if args.results and args.results.exists() else {"cases": {}}
    for head in dict.fromkeys(CASES[case] for case in args.cases):
        measure(head, args, kept["cases"])
    limits = [sys.executable, "-m", "tests.bench.speed_limits", str(args.threads)]
    kept["limits"] = json.loads(subprocess.run(limits, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    kept["machine"] = machine(args)
    if args.results:
        write_json(args.results, kept)
    report(kept, ROOT / "docs/benchmarks.md" if args.write else None)


if __name__ == "__main__":
    main()
