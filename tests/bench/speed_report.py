"""The tables of the benchmark, from what `speed.py` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.speed_data import PHOTOS
from tests.bench.speed_limits import STEP_BYTES, VISION_OPERATIONS

NAMES = {
    "ours-pt": "ours, PyTorch", "ours-optimized": "ours, optimized",
    "ours-bfloat16": "ours, bfloat16", "ours-int8": "ours, int8",
    "ours-tf": "ours, TensorFlow", "hf-pt": "transformers 4.57.6, PyTorch",
    "hf-tf": "transformers 4.57.6, TensorFlow", "hf-new": "newest transformers, PyTorch", "openvino": "OpenVINO",
}  # fmt: skip
CASES = {
    "vision 1": "vision encoder, 1 picture", "vision 4": "vision encoder, 4 pictures",
    "greedy 1": "caption, greedy, 1 picture", "greedy 8": "caption, greedy, 8 pictures",
    "beams 1": "caption, 3 beams, 1 picture", "beams 8": "caption, 3 beams, 8 pictures",
    "vqa": "answer, 5 tokens, 3 beams", "itm 64": "match 1 picture with 64 texts",
    "preprocess": "prepare 24 photographs", "preprocess fast": "the same, fast",
    "preprocess one": "prepare them in one thread", "preprocess fast one": "the same, fast",
    "import": "import", "load": "load", "first caption": "first caption", "start": "import, load and first caption",
    "peak MB": "peak memory of that, MB",
}  # fmt: skip
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Results = dict[str, dict[str, dict[str, Any]]]


def joined(cases: Results) -> Results:
    """The cases with eight times "itm 8" in place of the 64 texts of those who encode the picture for each text."""
    found = {name: dict(row) for name, row in cases.items()}
    for system, cell in found.pop("itm 8", {}).items():
        if "seconds" in cell:
            found.setdefault("itm 64", {})[system] = {"seconds": 8 * cell["seconds"]}
    return found


def figure(name: str, cell: dict[str, Any] | None) -> str:
    """One cell of the table."""
    if cell is None:
        return ""
    if "seconds" not in cell:
        return "fails"
    value = cell["seconds"]
    return f"{value:.0f}" if name == "peak MB" else f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.2f} s"


def table(cases: Results) -> list[str]:
    """A row for each case, a column for each system, with its time over that of ours in PyTorch."""
    systems = [system for system in NAMES if any(system in row for row in cases.values())]
    lines = ["| | " + " | ".join(NAMES[s] for s in systems) + " |", "| --- |" + " --- |" * len(systems)]
    for name, label in CASES.items():
        row = cases.get(name, {})
        own = row.get("ours-pt") or cases.get(name.replace(" fast", ""), {}).get("ours-pt") or {}
        cells = []
        for system in systems:
            text = figure(name, row.get(system))
            if "seconds" in own and "seconds" in row.get(system, {}) and system != "ours-pt":
                text += f" ({row[system]['seconds'] / own['seconds']:.2f}x)"
            cells.append(text)
        lines += [f"| {label} | " + " | ".join(cells) + " |"] if row else []
    return lines


def ratio(cases: Results, case: str, over: str, under: str = "ours-pt", other: str = "") -> float | None:
    """Seconds of one system over those of another."""
    upper, lower = cases.get(other or case, {}).get(over, {}), cases.get(case, {}).get(under, {})
    return upper["seconds"] / lower["seconds"] if "seconds" in upper and "seconds" in lower else None


def targets(cases: Results, limits: dict[str, Any]) -> list[str]:
    """What the project asks of itself, and what was measured."""
    best = max(max(found.values()) for found in limits["products"].values())
    rows: list[tuple[str, float | None, float, str]] = []
    for case, label, least in (
        ("greedy 1", "greedy, 1 picture", 1.6), ("greedy 8", "greedy, 8 pictures", 1.6),
        ("beams 1", "3 beams, 1 picture", 2.5), ("beams 8", "3 beams, 8 pictures", 2.5), ("vqa", "VQA", 1.8),
        ("itm 64", "1 picture, 64 texts", 10.0), ("start", "import, load, first caption", 1.0),
        ("peak MB", "peak memory of that", 1.0),
        ("preprocess", "preparing pictures, slow processor", 2.0),
    ):  # fmt: skip
        rows.append((f"PyTorch, {label}: transformers / ours", ratio(cases, case, "hf-pt"), least, "x"))
    fast = ratio(cases, "preprocess fast one", "hf-new")
    rows.append(("preparing pictures in one thread, both fast: transformers / ours", fast, 1.0, "x"))
    rows.append(("TensorFlow, greedy: transformers / ours", ratio(cases, "greedy 1", "hf-tf", "ours-tf"), 8.0, "x"))
    for case in ("vision 4", "greedy 1", "greedy 8", "beams 1", "beams 8", "vqa", "itm 64"):
        rows.append((f"{CASES[case]}: PyTorch / TensorFlow", ratio(cases, case, "ours-pt", "ours-tf"), 1 / 1.2, "x"))
    vision = cases.get("vision 4", {}).get("ours-pt")
    if vision:
        rate = 4 * VISION_OPERATIONS / vision["seconds"]
        rows.append(("vision encoder, 4 pictures, of the best matrix product", 100 * rate / best, 85, "%"))
    for system in ("ours-pt", "ours-tf"):
        pair = [cases.get(f"decode {length}", {}).get(system) for length in (4, 20)]
        if pair[0] and pair[1]:
            step = (pair[1]["seconds"] - pair[0]["seconds"]) / 16
            share = 100 * STEP_BYTES / step / limits["read"]
            rows.append(
                (f"greedy step of {NAMES[system]} ({step * 1000:.1f} ms), of the memory's rate", share, 80, "%")
            )
    lines = ["| | measured | at least |", "| --- | --- | --- |"]
    return lines + [
        f"| {label} | {value:.{2 if unit == 'x' else 0}f}{unit} | {least:.{2 if unit == 'x' else 0}f}{unit} |"
        for label, value, least, unit in rows
        if value is not None
    ]


def same(cases: Results) -> str:
    """Say whether all systems found the same tokens in float32."""
    odd = []
    for name, row in cases.items():
        whole = [cell for system, cell in row.items() if system not in ("ours-bfloat16", "ours-int8")]
        found = {cell["digest"] for cell in whole if isinstance(cell.get("digest"), str)}
        odd += [name] if len(found) > 1 else []
    return f"Tokens differ in: {', '.join(odd)}." if odd else "In float32 all systems found the same tokens."


def report(found: dict[str, Any], path: Path | None) -> None:
    """Print the tables, and write them between the marks of a Markdown file."""
    cases, limits = joined(found["cases"]), found["limits"]
    lines = [f"- {name}: {value}" for name, value in found["machine"].items()]
    for rows, ways in limits["products"].items():
        rates = ", ".join(f"{way} {rate / 1e9:.0f}" for way, rate in ways.items())
        lines.append(f"- matrix products of the vision encoder's blocks, {rows} rows, GFLOP/s: {rates}")
    for rows, ways in limits.get("chosen", {}).items():
        lines.append(f"- chosen for {rows} rows, for qkv, projection, fc1 and fc2: {', '.join(ways)}")
    lines += [f"- reading memory: {limits['read'] / 1e9:.0f} GB/s", f"- pictures: {len(PHOTOS)} photographs", ""]
    lines += [*table(cases), "", same(cases), "", *targets(cases, limits)]
    text = "\n".join(lines)
    print(text)
    if path:
        page = path.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        path.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")
