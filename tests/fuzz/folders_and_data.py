"""Makes hostile folders of pictures and hostile data files, and gives them to whatever reads such things.

    python -m tests.fuzz.folders_and_data [--folders 2000] [--files 2000] [--seed 0]

Folders go through `blip caption`; files (JSON, JSON lines, CSV, Parquet, tar) and folders through the reader of
training and `blip capfilt --dry-run`. No case may take 20 s of the processor or 2 GB, hang, end with a traceback, or
write outside of its folder; every good picture is captioned, every bad one is named. Cases run in a worker process with
a tiny model, which is replaced when it dies or hangs. As root the worker becomes another user, so that permissions
count.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from time import process_time
from typing import Any

from PIL import Image

from tests.fuzz.hostile_data import DATA_KINDS, make_data
from tests.fuzz.hostile_folders import make_folder

SECONDS, MEMORY = 20, 2_000_000_000
HANGING = 180  # seconds after which a case that uses no processor hangs
NOBODY = 65534


def make_models(folder: Path) -> None:
    """A tiny captioner and a tiny matcher."""
    import numpy as np

    from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
    from blip_core.checkpoints.saving import write_pretrained
    from blip_core.parameters.models import parameters

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = BlipTextConfig(**sizes), BlipVisionConfig.base(**sizes, image_size=16)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=4)
    noise = np.random.default_rng(0)
    for name, head in (("captioner", "BlipForConditionalGeneration"), ("filter", "BlipForImageTextRetrieval")):
        rows = parameters(head, config)
        values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
        write_pretrained(folder / name, head, config, rows, lambda row, values=values: values[row.name])
        processor = BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), BlipTokenizer())
        processor.save_pretrained(folder / name)


def use_models(folder: Path) -> Any:
    """Load the models once, and let the commands take them; returns the processor."""
    from blip_core.cli import capfilt, caption_folder
    from blip_core.inference import Captioner, Matcher

    loaded = {
        "Captioner": Captioner.from_pretrained(folder / "captioner"),
        "Matcher": Matcher.from_pretrained(folder / "filter"),
    }
    caption_folder.load = capfilt.load = lambda kind, *_, **__: loaded[kind.__name__]
    return loaded["Captioner"].processor


def run_command(*words: str) -> tuple[list[dict[str, Any]], str]:
    """Run `blip` here; returns what it printed as JSON, and its standard error."""
    from blip_core.cli import main

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
        out.flush()
        err.flush()
    printed, said = (stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err))
    if code not in (0, 1) or "Traceback" in said:
        raise AssertionError(f"code {code}: {said[-300:]}")
    return [json.loads(line) for line in printed.split("\n") if line], said


def caption_case(case: Path, expected: dict[str, list[str]], rng: random.Random) -> None:
    """`blip caption` on a folder: each good picture has a caption, each bad one is named."""
    entries, said = run_command(
        "caption", str(case / "in"), "--recursive", "--json", "--max-tokens", "2", "--beams", "1"
    )
    images = {True: set(), False: set()}
    for entry in entries:
        images["caption" in entry].add(str(entry["image"]).encode("utf-8", "backslashreplace"))
    for kind, found in (("good", images[True]), ("bad", images[False])):
        names = [path.encode("utf-8", "backslashreplace") for path in expected[kind]]
        if missing := [name for name in names if name not in found]:
            raise AssertionError(f"{kind}, but not found so: {missing[:3]}; {said[-300:]}")
    if rng.random() < 0.2:
        run_command(
            "caption", str(case / "in"), "--recursive", "--sidecar", ".cap", "--max-tokens", "2", "--beams", "1"
        )


def data_case(source: Path, expected: dict[str, list[str]] | None, processor: Any, rng: random.Random) -> None:
    """The reader of training, and `capfilt --dry-run`: good texts are there, bad entries are among the problems."""
    from blip_core.datasets import Batches, open_dataset

    warnings.simplefilter("ignore")
    try:
        data = open_dataset(source, "caption")
        batches = Batches(data, processor, "caption", 4, training=rng.random() < 0.5, workers=0, drop_last=False)
        texts = {text for batch in batches.epoch(0) for example in batch.examples for text in example.texts}
    except (ValueError, OSError) as error:
        if len(str(error)) > 3000 or (expected and expected["good"]):
            raise AssertionError(f"{type(error).__name__}: {error}"[:400]) from None
        texts, data = set(), None
    if expected and data is not None:
        if missing := set(expected["good"]) - texts - ({*expected["good"]} if batches.training else set()):
            raise AssertionError(f"good entries are missing: {sorted(missing)[:3]}; problems {data.problems[:2]}")
        named = " ".join(f"{where}: {reason}" for where, reason in data.problems)
        if not batches.training and (silent := [name for name in expected["bad"] if name not in named]):
            raise AssertionError(f"bad entries are not named: {silent[:3]} in {named[:300]}")
    models = ("--captioner", "c", "--filter", "f", "--beams", "1", "--json")
    run_command("capfilt", "--input", str(source), "--output", "out", *models, "--dry-run", "3")


def outside(case: Path) -> list[tuple[str, int]]:
    """What lies beside the folders of a case and of its output, with the time of its last change."""
    found = [path for path in (case, *case.iterdir(), *(case / "beside").iterdir()) if path.name not in ("in", "out")]
    return sorted((path.name, path.lstat().st_mtime_ns * (path != case)) for path in found)


def run_case(kind: str, seed: int, case: Path, processor: Any) -> None:
    """Make a case and run it; raises `AssertionError` for what must not be."""
    rng = random.Random(seed)
    for folder in (case, case / "in", case / "beside"):
        folder.mkdir()
    os.chdir(case)
    source, expected = (case / "in", make_folder(case, rng)) if kind == "folder" else make_data(kind, case, rng)
    begin, memory, untouched = process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, outside(case)
    if kind == "folder":
        caption_case(case, expected, rng)
    data_case(source, None if kind == "folder" else expected, processor, rng)
    seconds = process_time() - begin
    assert seconds < SECONDS, f"took {seconds:.0f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    assert grown < MEMORY, f"took {grown} bytes"
    assert outside(case) == untouched, "something was written outside"


def worker(connection: Any, folder: Path) -> None:
    """Run cases until told to stop; says for each what was wrong, "" for nothing, and how many seconds it took."""
    processor = use_models(folder / "models")
    Image.init()
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):  # which JSON may be in
        codecs.lookup(encoding)
    for kind in ("folder", *DATA_KINDS):  # all libraries are loaded before permissions count
        with contextlib.suppress(AssertionError):
            run_case(kind, -1, Path(tempfile.mkdtemp(dir=folder)) / "first", processor)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    connection.send("ready")
    while job := connection.recv():
        outcome, begin = "", process_time()
        try:
            run_case(*job, processor)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:600]
        connection.send((outcome, process_time() - begin))
    if os.getuid() == 0:
        os.seteuid(0)


def fuzz(cases: list[tuple[str, int]], folder: Path) -> tuple[Counter[str], list[str], float]:
    """Run cases (kind, seed); returns how many there were of each kind, what must not be, and the slowest's seconds."""
    make_models(folder / "models")
    os.chmod(folder, 0o755)
    work = folder / "work"
    work.mkdir()
    work.chmod(0o777)
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    failures: list[str] = []
    process, connection, slowest = None, None, 0.0
    for kind, seed in cases:
        if process is None:
            connection, theirs = context.Pipe()
            process = context.Process(target=worker, args=(theirs, folder), daemon=True)
            process.start()
            theirs.close()
            connection.recv()
        case = work / f"{kind}-{seed}"
        connection.send((kind, seed, case))
        try:
            outcome, seconds = connection.recv() if connection.poll(HANGING) else ("HANG", HANGING)
        except (EOFError, OSError):
            outcome, seconds = "CRASH", 0.0
        slowest = max(slowest, seconds)
        if outcome in ("HANG", "CRASH"):
            process.kill()
            process = None
        counts[kind] += 1
        if counts.total() % 200 == 0:
            print(f"{counts.total()} of {len(cases)}, slowest {slowest:.1f} s", file=sys.stderr, flush=True)
        if outcome:
            failures.append(f"{kind} {seed}: {outcome}")
            print(failures[-1], file=sys.stderr, flush=True)
        shutil.rmtree(case, ignore_errors=True)
    if process is not None:
        connection.send(None)
        process.join(SECONDS)
    return counts, failures, slowest


def main() -> int:
    """Fuzz and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=2000)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cases = [(args.seed + number, "folder") for number in range(args.folders)]
    cases += [(args.seed + number, DATA_KINDS[number % len(DATA_KINDS)]) for number in range(args.files)]
    with tempfile.TemporaryDirectory() as folder:
        counts, failures, slowest = fuzz([(kind, seed) for seed, kind in sorted(cases)], Path(folder))
    for kind, count in sorted(counts.items()):
        print(f"{count:7} {kind}")
    print(f"slowest: {slowest:.1f} s")
    print("\n".join(failures) or "nothing that must not be")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
