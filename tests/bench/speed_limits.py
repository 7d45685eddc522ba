"""What the machine can do: the best matrix product at the shapes of the vision encoder, and reading memory.

    python -m tests.bench.speed_limits [THREADS]

Prints a line of JSON: floating-point operations a second of every way that PyTorch has to multiply, bytes read a
second, and what a vision encoder and a decoding step of base size need.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from blip_pt.products import best_way

TOKENS, WIDTH, LAYERS, VOCABULARY = 577, 768, 12, 30524
SHAPES = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))  # qkv, projection, fc1, fc2

VISION_OPERATIONS = LAYERS * (2 * TOKENS * sum(a * b for a, b in SHAPES) + 4 * TOKENS**2 * WIDTH) + (
    2 * (TOKENS - 1) * WIDTH * 3 * 16**2
)
"""Multiplications and additions for one picture of 384 pixels: the blocks' products, attention, the patch embedding."""

STEP_BYTES = 4 * (LAYERS * (6 + 8) * WIDTH**2 + WIDTH**2 + VOCABULARY * WIDTH)
"""Bytes of float32 weights that a decoding step reads: attention to the text (4) and to the picture (2), the
feed-forward network (8), the head. (The keys and values of the picture, another 42 MB, are not counted.)"""


def best(run: Callable[[], object], repeats: int) -> float:
    """The least seconds of several runs."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def products(rows: int) -> dict[str, float]:
    """Operations a second over the four shapes, for each way to multiply."""
    onednn = torch.ops.mkldnn
    seconds: dict[str, float] = {}
    for into, out in SHAPES:
        x, weight, bias = torch.randn(rows, into), torch.randn(out, into), torch.randn(out)
        packed = onednn._reorder_linear_weight(weight, rows)
        ways = {
            "torch.nn.functional.linear": lambda x=x, w=weight, b=bias: F.linear(x, w, b),
            "oneDNN": lambda x=x, w=weight, b=bias: onednn._linear_pointwise(x, w, b, "none", [], ""),
            "oneDNN, weights packed": lambda x=x, w=packed, b=bias: onednn._linear_pointwise(x, w, b, "none", [], ""),
        }
        for name, run in ways.items():
            seconds[name] = seconds.get(name, 0.0) + best(run, 5)
    operations = sum(2 * rows * into * out for into, out in SHAPES)
    return {name: operations / taken for name, taken in seconds.items()}


def ways(rows: int) -> list[str]:
    """How `blip_pt` multiplies on this machine, and where it is optimized, for each of the four shapes."""
    weights = [torch.empty(out, into, device="meta") for into, out in SHAPES]
    return ["/".join(dict.fromkeys(best_way(rows, weight, packing) for packing in (False, True))) for weight in weights]


def read_rate() -> float:
    """Bytes a second of reading 1 GB once: the sum of its numbers, or its product with one row, what is faster."""
    memory, row = torch.ones(2**17, 2**11), torch.ones(1, 2**11)

    def product() -> object:
        return torch.ops.mkldnn._linear_pointwise(row, memory, None, "none", [], "")

    return memory.nbytes / min(best(memory.sum, 5), best(product, 5))


def main() -> None:
    found: dict[str, object]
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    with torch.inference_mode():
        found = {"products": {rows: products(rows) for rows in (TOKENS, 4 * TOKENS)}, "read": read_rate()}
    found["chosen"] = {rows: ways(rows) for rows in (1, 3, 8, 24, TOKENS)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
