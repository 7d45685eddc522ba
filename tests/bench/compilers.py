"""What is not done by default, and what it would win: compilers, and encoding the next pictures while one is captioned.

    python -m tests.bench.compilers [--repeats 5]

Base size, random weights, the photographs of `speed.py`, float32, two threads. Each way runs in a process of its own;
all take turns, and the medians are compared with those of the first of their framework. "First call" is what compiling
costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tests.bench.speed_data import CACHE, ROOT, prepare

LENGTH, BATCHES = 20, 4
WAYS = {
    "pt": {"plain": "as it is", "compile": "`torch.compile`", "freezing": "`torch.compile`, weights frozen"},
    "tf": {"plain": "as it is", "graph": "`tf.function`", "xla": "`tf.function(jit_compile=True)`"},
    "decode-pt": {"plain": "as it is", "compile": "`torch.compile` of the decoder's layers"},
    "overlap-pt": {"plain": "one after the other", "thread": "the next batch encoded by a second thread"},
}
TITLES = {
    "pt": "PyTorch, vision encoder, {} pictures",
    "tf": "TensorFlow, vision encoder, {} pictures",
    "decode-pt": "PyTorch, 20 greedy steps, {} pictures",
    "overlap-pt": f"PyTorch, {BATCHES} batches of {{}} captions",
}


def encoder_pt(way: str) -> Callable[[np.ndarray], Any]:
    """The vision encoder of PyTorch."""
    import torch

    model = captioner()
    encoder = model.vision_model
    if way == "freezing":
        import torch._inductor.config as inductor

        inductor.freezing = True
    if way != "plain":
        encoder = torch.compile(encoder)
    return lambda pixels: encoder(torch.from_numpy(pixels)).last_hidden_state


def encoder_tf(way: str) -> Callable[[np.ndarray], Any]:
    """The vision encoder of TensorFlow."""
    import tensorflow as tf

    from blip_tf import TFBlipForConditionalGeneration

    encoder = TFBlipForConditionalGeneration.from_pretrained(CACHE / "captioner").vision_model

    def encode(pixels: Any) -> Any:
        return encoder(pixels).last_hidden_state

    run = encode if way == "plain" else tf.function(encode, jit_compile=way == "xla")
    return lambda pixels: run(tf.constant(pixels)).numpy()


def decoder_pt(way: str) -> Callable[[np.ndarray], Any]:
    """A caption's steps in PyTorch, its pictures being encoded before."""
    import torch

    model = captioner()
    if way == "compile":
        for layer in model.text_decoder.bert.encoder.layer:
            layer.compile(dynamic=True)
    known: dict[int, Any] = {}

    def decode(pixels: np.ndarray) -> Any:
        if len(pixels) not in known:
            known[len(pixels)] = model.vision_model(torch.from_numpy(pixels)).last_hidden_state
        return captions(model, image_embeds=known[len(pixels)])

    return decode


def overlap_pt(way: str) -> Callable[[np.ndarray], Any]:
    """Captions of several batches in PyTorch."""
    import torch

    model = captioner()

    @torch.inference_mode()
    def encode(pixels: np.ndarray) -> Any:
        return model.vision_model(torch.from_numpy(pixels)).last_hidden_state

    def embeddings(pixels: np.ndarray) -> Iterator[Any]:
        if way == "plain":
            yield from (encode(pixels) for _ in range(BATCHES))
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(encode, pixels)
            for number in range(BATCHES):
                found = coming.result()
                if number < BATCHES - 1:
                    coming = ahead.submit(encode, pixels)
                yield found

    return lambda pixels: [captions(model, image_embeds=embeds) for embeds in embeddings(pixels)]


def captioner() -> Any:
    """The captioner of PyTorch."""
    import torch

    from blip_pt import BlipForConditionalGeneration

    torch.set_grad_enabled(False)
    return BlipForConditionalGeneration.from_pretrained(CACHE / "captioner").eval()


def captions(model: Any, **inputs: Any) -> Any:
    return model.generate(**inputs, min_new_tokens=LENGTH, max_new_tokens=LENGTH)


KINDS = {"pt": encoder_pt, "tf": encoder_tf, "decode-pt": decoder_pt, "overlap-pt": overlap_pt}


def work(kind: str, way: str) -> None:
    """Answer each number of pictures on standard input with the seconds that a call takes."""
    run = KINDS[kind](way)
    pixels = np.load(CACHE / "inputs.npz")["pixel_values"]
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        run(pixels[: int(line)])
        print(json.dumps(time.perf_counter() - begin), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=list(WAYS), choices=WAYS)
    args = parser.parse_args()
    prepare()
    print("| | | first call | then | over the first |\n| --- | --- | --- | --- | --- |")
    for kind in args.kinds:
        workers = {way: start(kind, way) for way in WAYS[kind]}
        for count in (1, 4):
            seconds: dict[str, list[float]] = {way: [] for way in workers}
            for _ in range(1 + args.repeats):
                for way, worker in workers.items():
                    seconds[way].append(float(ask(worker, str(count), f"{kind} {way}")))
            plain = statistics.median(seconds["plain"][1:])
            for way, (first, *rest) in seconds.items():
                then = statistics.median(rest)
                title = f"{TITLES[kind].format(count)} | {WAYS[kind][way]}"
                print(f"| {title} | {first:.1f} s | {then * 1000:.0f} ms | {then / plain:.2f}x |", flush=True)
        for worker in workers.values():
            worker.kill()


def start(kind: str, way: str) -> subprocess.Popen[str]:
    """A process that has loaded its model."""
    command = [sys.executable, "-m", "tests.bench.compilers", "work", kind, way]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    found = subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes)
    ask(found, "", f"{kind} {way}")
    return found


def ask(worker: subprocess.Popen[str], line: str, name: str) -> str:
    """Send a process a line, if there is one, and return the next one that is its answer."""
    assert worker.stdin
    assert worker.stdout
    if line:
        print(line, file=worker.stdin, flush=True)
    for answer in worker.stdout:
        if answer == "ready\n" or answer[0].isdigit():
            return answer
    sys.exit(f"{name} ended; what it complained of is above.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    else:
        main()
