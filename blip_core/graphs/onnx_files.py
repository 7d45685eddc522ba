"""Checking an ONNX file before it is run: it may read the weights beside it, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from blip_core.checkpoints.saved_model import message
from blip_core.checkpoints.shared_weights import SHARED

MAX_BYTES = 64 * 2**20
"""The most that a graph without its weights may have; ours have less than one MB."""
WEIGHTS = ("model.safetensors", SHARED)
"""Where graphs may find them."""
BYTES = {1: 4, 2: 1, 3: 1, 10: 2}
"""Of an element, by the number of its type: those that weights have."""
# Which fields of a message of ONNX hold messages of which kind, for the way from a model to all of its tensors.
KINDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def check_graph(path: Path) -> None:
    """Raise `ValueError` for a file that is damaged, too large, or takes data from elsewhere than the weights."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large for a graph without weights")
        ends = {file.name: file.stat().st_size for file in map(path.with_name, WEIGHTS) if file.is_file()}
        for tensor in _tensors("model", path.read_bytes()):
            fields = list(message(tensor))
            entries = dict(_entry(value) for field, value in fields if field == 13)
            if not entries:
                continue
            size = math.prod(value for field, value in fields if field == 1) * BYTES[dict(fields)[2]]
            offset, length = (int(entries.get(name, "-1")) for name in ("offset", "length"))
            if offset < 0 or length != size or offset + length > ends.get(entries.get("location", ""), -1):
                raise ValueError(f"it reads {entries.get('location')!r} from {offset}, {length} bytes")
    except (ValueError, IndexError, KeyError, TypeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"{path} is no graph of ours ({error}); export the model again.") from None


def _tensors(kind: str, data: bytes) -> Iterator[bytes]:
    """Yield every tensor of a message."""
    if kind == "tensor":
        yield data
    for field, value in message(data) if kind != "tensor" else ():
        if field in KINDS[kind]:
            yield from _tensors(KINDS[kind][field], value)


def _entry(data: bytes) -> tuple[str, str]:
    found = dict(message(data))
    return found[1].decode(), found[2].decode()
