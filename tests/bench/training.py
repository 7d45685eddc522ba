"""How fast training is: steps of captioner, matcher and pre-training at base size, and the memory that they take.

    python -m tests.bench.training [--systems pt hf] [--heads captioner] [--batch 4] [--size 224] [--write]

Each row is a process of its own: random weights, random pictures and texts of 20 tokens, AdamW, one step to warm up and
then some that are timed. transformers has no loss of its own for the other two heads. Compare times of one run alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench.speed_data import LAYERS, ROOT

HEADS = {
    "captioner": "BlipForConditionalGeneration", "matcher": "BlipForImageTextRetrieval",
    "pretraining": "BlipForPreTraining",
}  # fmt: skip
SYSTEMS = {"pt": "ours, PyTorch", "tf": "ours, TensorFlow", "hf": "transformers 4.57.6, PyTorch"}
MODES = {"plain": "float32", "checkpointing": "float32, checkpointing", "bfloat16": "bfloat16 (autocast)"}
TOKENS = 20
BEGIN, END = "<!-- training: begin -->", "<!-- training: end -->"


def applies(system: str, head: str, mode: str) -> bool:
    """Say whether a system trains a head in a mode: transformers has one loss alone, TensorFlow's modes are its own."""
    return (system != "hf" or head == "captioner") and (system != "tf" or mode == "plain")


def inputs(head: str, batch: int, size: int) -> dict[str, np.ndarray]:
    """Random pictures and texts, which begin with [DEC] for the captioner, else with [CLS]."""
    noise = np.random.default_rng(0)
    ids = noise.integers(1000, 30000, (batch, TOKENS))
    ids[:, 0], ids[:, -1] = 30522 if head == "captioner" else 101, 102
    pixels = noise.standard_normal((batch, 3, size, size), np.float32)
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": np.ones_like(ids)}


def own_config(size: int) -> Any:
    """The configuration of base size, or with fewer layers where `BENCH_LAYERS` asks for it."""
    from blip_core import BlipConfig

    config = BlipConfig.base()
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = LAYERS
    config.vision_config.image_size = size
    return config


def pytorch_step(system: str, head: str, mode: str, batch: int, size: int) -> Any:
    """A step of training as something to call."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if system == "hf":
        import transformers

        config = transformers.BlipConfig()
        config.text_config.num_attention_heads = 12
        config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = LAYERS
        config.vision_config.image_size = size
        model = transformers.BlipForConditionalGeneration(config)
    else:
        import blip_pt

        model = getattr(blip_pt, HEADS[head])(own_config(size))
        if head != "captioner":
            model.start_momentum()
    model.train()
    if mode == "checkpointing":
        model.gradient_checkpointing_enable()
    given = {name: torch.from_numpy(array) for name, array in inputs(head, batch, size).items()}
    given |= extra(head, given["input_ids"], torch.arange(batch))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bfloat16"):
            loss = model(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def tensorflow_step(head: str, batch: int, size: int) -> Any:
    """The same in TensorFlow, compiled as a function."""
    import tensorflow as tf

    import blip_tf

    tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = getattr(blip_tf, f"TF{HEADS[head]}")(own_config(size))
    if head != "captioner":
        model.start_momentum()
    given = {name: tf.constant(array) for name, array in inputs(head, batch, size).items()}
    given |= extra(head, given["input_ids"], tf.range(batch))
    optimizer = tf.keras.optimizers.AdamW(1e-5)

    @tf.function
    def compute() -> Any:
        with tf.GradientTape() as tape:
            loss = model(**given, training=True).loss
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return lambda: float(compute())


def extra(head: str, ids: Any, image_ids: Any) -> dict[str, Any]:
    """What makes a head return a loss."""
    return {"labels": ids} if head == "captioner" else {"image_ids": image_ids} if head == "matcher" else {}


def worker(system: str, head: str, mode: str, batch: int, size: int, steps: int) -> None:
    """Measure one row, and print it as JSON."""
    step = tensorflow_step(head, batch, size) if system == "tf" else pytorch_step(system, head, mode, batch, size)
    assert np.isfinite(step())
    seconds, work = [], []
    for _ in range(steps):
        begin, busy = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - begin)
        work.append(time.process_time() - busy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "work": work, "peak": peak}))


def table(rows: dict[tuple[str, str, str], dict[str, Any]], args: argparse.Namespace) -> list[str]:
    """A row for each head, system and mode."""
    lines = [
        f"Batch {args.batch}, {args.size} pixels, {LAYERS} layers, {args.threads} threads, {args.steps} steps.",
        "",
        "| | | | a step | least and most | processor time | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for (system, head, mode), found in rows.items():
        least, most = min(found["seconds"]), max(found["seconds"])
        lines.append(
            f"| {head} | {SYSTEMS[system]} | {MODES[mode]} | {median(found['seconds']):.2f} s "
            f"| {least:.2f} to {most:.2f} s | {median(found['work']):.2f} s | {found['peak']:.0f} MB |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="of pictures, in pixels")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--oracle", default=ROOT / ".venv-oracle/bin/python", help="Python with transformers 4.57.6")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker, args.batch, args.size, args.steps)
        return
    rows = {}
    for head in args.heads:
        for mode in args.modes:
            for system in (system for system in args.systems if applies(system, head, mode)):
                python = str(args.oracle) if system == "hf" else sys.executable
                command = [python, "-m", "tests.bench.training", "--worker", system, head, mode]
                command += [f"--{name}={getattr(args, name)}" for name in ("batch", "size", "steps")]
                env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(ROOT)}
                run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
                rows[system, head, mode] = json.loads(run.stdout.splitlines()[-1])
    text = "\n".join(table(rows, args))
    print(text)
    if args.write:
        path = Path(ROOT / "docs/benchmarks.md")
        page = path.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        path.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
