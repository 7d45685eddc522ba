"""Which library multiplies fastest on this machine: measured where a kind of product is first computed, and remembered.

MKL, oneDNN and oneDNN with packed weights each win on some processors and for some shapes. The measurement takes some
milliseconds for each class of shapes. What it found is kept in `blip/products` of the user's cache folder, in a file
for each processor, version of PyTorch and number of threads. With the environment variable `BLIP_MEASURE=0` nothing is
measured, read or written: then oneDNN multiplies wherever a processor has AVX-512.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from bisect import bisect
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_core.files import cache_folder, read_json, write_json

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
CLASSES = (1, 2, 4, 8, 32, 128)
"""Rows that are measured; a product of other rows belongs to the largest class that has no more."""
ROUNDS = 3
CLEARLY = 0.9
"""The share of the usual way's time that another may take at most to be chosen, so that noise chooses nothing."""

HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # private, which may vanish
USUAL = "onednn" if HAS_ONEDNN and torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "torch"
"""The way that is taken where nothing is measured, and where none is clearly faster."""


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """`torch.nn.functional.linear` by oneDNN, for contiguous x and a contiguous or a packed weight."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, activation, [], "none")
    return result


def pack(weight: Tensor) -> Tensor:
    """A weight as oneDNN multiplies with it fastest, a tensor that nothing else understands."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


WAYS: dict[str, tuple[Product, Callable[[Tensor], Tensor]]] = {
    "torch": (F.linear, lambda weight: weight),
    "onednn": (onednn, lambda weight: weight),
    "packed": (onednn, pack),
}
"""By name how a product is computed, and what is made of its weight before."""


def best_way(rows: int, weight: Tensor, packing: bool = False) -> str:
    """Name the fastest way to multiply so many rows with a weight (out, in); "packed" only if `packing` allows it."""
    least = CLASSES[max(bisect(CLASSES, rows) - 1, 0)]
    return _remembered(least, *weight.shape, packing, torch.get_num_threads())


@lru_cache(maxsize=1024)
def _remembered(rows: int, out: int, into: int, packing: bool, threads: int) -> str:
    if not HAS_ONEDNN:
        return "torch"
    if os.environ.get("BLIP_MEASURE") == "0":
        return "packed" if packing and USUAL == "onednn" else USUAL
    ways = [way for way in WAYS if packing or way != "packed"]
    kind = f"{rows} x {into} x {out}" + ", packed" * packing
    path = _path(threads)
    if (found := _known(path).get(kind)) in ways:
        return str(found)
    found = measure(rows, out, into, ways)
    known = _known(path)  # by now another process may have measured it: both take the same way
    if (theirs := known.get(kind)) in ways:
        return str(theirs)
    with suppress(OSError):  # a folder that cannot be written: it is measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**known, **_about(threads), kind: found})
    return found


def _known(path: Path) -> dict[str, object]:
    """What a file remembers; nothing where it is missing or damaged."""
    try:
        found: dict[str, object] = read_json(path)
    except (OSError, ValueError):
        found = {}
    return found


def measure(rows: int, out: int, into: int, ways: list[str]) -> str:
    """Time each way on random numbers, in turns, and name the one whose best time is least, if it is clearly so."""
    with torch.inference_mode():
        noise = torch.Generator().manual_seed(0)  # the global one belongs to the user
        x, weight, bias = (torch.randn(*shape, generator=noise) for shape in ((rows, into), (out, into), (out,)))
        weights = {way: WAYS[way][1](weight) for way in ways}
        times = dict.fromkeys(ways, float("inf"))
        for _ in range(ROUNDS):
            for way in ways:
                begin = time.perf_counter()
                WAYS[way][0](x, weights[way], bias)
                times[way] = min(times[way], time.perf_counter() - begin)
    best = min(times, key=times.__getitem__)
    return best if times[best] < CLEARLY * times[USUAL] else USUAL


def chosen() -> dict[str, str]:
    """What was measured on this machine with so many threads, by rows x inputs x outputs."""
    return {kind: str(way) for kind, way in _known(_path(torch.get_num_threads())).items() if way in WAYS}


def _path(threads: int) -> Path:
    text = "\0".join(_about(threads).values())
    return cache_folder() / "products" / f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.json"


def _about(threads: int) -> dict[str, str]:
    return {"processor": _processor(), "torch": torch.__version__, "threads": str(threads)}


@lru_cache(maxsize=1)
def _processor() -> str:
    """The processor's name as far as the system tells, and the instructions that PyTorch uses on it."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size")
    found = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in wanted]
    return " ".join([*(found or [platform.processor()]), torch.backends.cpu.get_cpu_capability()])
