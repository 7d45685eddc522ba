"""Our engines for exports beside PyTorch, and a plain loop over OpenVINO's own conversion of transformers' parts.

    python -m tests.bench.export_engines [--threads 2] [--repeats 5] [--write]
    BENCH_LAYERS=1 python -m tests.bench.export_engines --repeats 1        # small, to see that it works

Base size, random weights, one photograph of 384 pixels, float32. Every system runs in a process of its own; all take a
case in turn, and the medians are compared. What the systems find is compared, too. Exports are made first, each in a
process of its own, whose seconds and peak memory are in the second table; installed sizes are in the third. `--write`
puts all of it into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from conversion import convert
from tests.bench import openvino_notebook
from tests.bench.speed import measure
from tests.bench.speed_data import CACHE, HEADS, LAYERS, ROOT, prepare
from tests.bench.speed_report import Results, figure
from tests.bench.speed_worker import resident

SYSTEMS = {
    "ours-pt": "ours, PyTorch", "ours-onnx": "ours, ONNX Runtime", "ours-openvino": "ours, OpenVINO",
    "notebook": "OpenVINO's notebook", "ours-onnx-int8": "ONNX Runtime, int8",
    "ours-onnx-int8-dynamic": "ONNX Runtime, int8-dynamic", "ours-openvino-int8": "OpenVINO, int8",
}  # fmt: skip
CASES = {
    "vision 1": "vision encoder", "greedy 1": "caption of 20 tokens, greedy", "beams 1": "the same, 3 beams",
    "vqa": "answer of 5 tokens, 3 beams", "import": "import", "load": "load", "first caption": "first caption",
    "start": "import, load and first caption", "peak MB": "peak memory of that, MB",
}  # fmt: skip
PACKAGES = ("torch", "tensorflow", "openvino", "onnxruntime", "transformers", "nncf", "onnx")
BEGIN, END = "<!-- engines: begin -->", "<!-- engines: end -->"
WAYS: dict[str, dict[str, str] | None] = {
    "onnx": {"to": "onnx"},
    "openvino": {"to": "openvino"},
    "onnx-int8": {"to": "onnx", "weights": "int8", "dtype": "float16"},
    "onnx-int8-dynamic": {"to": "onnx", "weights": "int8-dynamic", "dtype": "float16"},
    "openvino-int8": {"to": "openvino", "weights": "int8", "dtype": "float16"},
    "notebook": None,
}
"""The options of `convert` by the end of the folder's name; None for OpenVINO's own conversion."""


def export(way: str, name: str) -> None:
    """Export a checkpoint, and print the seconds, the peak memory and the size in MB."""
    start, target, options = time.perf_counter(), CACHE / f"{name}-{way}", WAYS[way]
    if options is None:
        openvino_notebook.convert(CACHE / name, target, HEADS[name])
    else:
        convert(CACHE / name, target, overwrite=True, **options)
    seconds, size = time.perf_counter() - start, sum(path.stat().st_size for path in target.iterdir()) / 1e6
    print(json.dumps({"seconds": seconds, "peak": resident(), "size": size}))


def exported(way: str, name: str) -> Any:
    """Run `export` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.export_engines", "--export", way, name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        shutil.rmtree(CACHE / f"{name}-{way}", ignore_errors=True)  # a part of it is not taken for all
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1][:120]}
    return json.loads(done.stdout.splitlines()[-1])


def installed(package: str) -> float | None:
    """The size of a package's files in MB."""
    try:
        return (
            sum(path.stat().st_size for file in files(package) or [] if (path := Path(file.locate())).is_file()) / 1e6
        )
    except PackageNotFoundError:
        return None


def tables(results: Results, exports: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """Everything as Markdown."""
    lines = ["| | " + " | ".join(SYSTEMS.values()) + " |", "| --- |" + " --- |" * len(SYSTEMS)]
    for case, label in CASES.items():
        row = results.get(case, {})
        cells = [figure(case, row.get(system)) for system in SYSTEMS]
        own = row.get("ours-pt", {}).get("seconds")
        others = [row.get(system, {}).get("seconds") for system in SYSTEMS]
        cells = [
            f"{cell} ({value / own:.2f}x)" if own and value and number else cell
            for number, (cell, value) in enumerate(zip(cells, others, strict=True))
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for case in ("greedy 1", "beams 1", "vqa"):
        digests = {s: cell.get("digest") for s, cell in results.get(case, {}).items() if "int8" not in s}
        same = len(set(map(str, digests.values()))) == 1
        lines += [
            "",
            f"{CASES[case]}: " + ("all in float32 found the same tokens." if same else f"tokens differ: {digests}"),
        ]
    lines += ["", "| Captioner exported to | Time | Peak memory | Size |", "| --- | --- | --- | --- |"]
    for way, cell in exports.items():
        figures = (
            f"{cell['seconds']:.1f} s | {cell['peak']:.0f} MB | {cell['size']:.0f} MB"
            if "seconds" in cell
            else f"{cell} | |"
        )
        lines.append(f"| {way} | {figures} |")
    sizes = {name: installed(name) for name in PACKAGES}
    lines += ["", "| Package | Installed |", "| --- | --- |"]
    lines += [f"| {name} {version(name)} | {size:.0f} MB |" for name, size in sizes.items() if size is not None]
    return [f"{LAYERS} layers, {args.threads} threads, medians of {args.repeats} runs.", "", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help="export anew, though exports are there")
    parser.add_argument(
        "--log", type=argparse.FileType("w"), default=subprocess.DEVNULL, help="what processes complain"
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    if args.export:
        return export(*args.export)
    os.environ["PYTHONPATH"] = str(ROOT)
    prepare()
    kept = CACHE / "exports.json"
    exports = {} if args.again or not kept.exists() else json.loads(kept.read_text())
    for way in WAYS:
        for name in ("captioner", "answerer"):
            if not (CACHE / f"{name}-{way}").exists() or args.again:
                found = exported(way, name)
                exports |= {way: found} if name == "captioner" else {}
                print(f"{name} {way}: {found}", file=sys.stderr, flush=True)
    kept.write_text(json.dumps(exports))
    args.cases = [case for case in CASES if case in ("vision 1", "greedy 1", "beams 1", "vqa", "start")]
    args.systems, args.device, args.results = list(SYSTEMS), "cpu", None
    args.oracle = args.newest = sys.executable
    results: Results = {}
    for head in ("captioner", "answerer", "start"):
        measure(head, args, results)
    text = "\n".join(tables(results, exports, args))
    print(text)
    if args.write:
        page = ROOT / "docs" / "benchmarks.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
