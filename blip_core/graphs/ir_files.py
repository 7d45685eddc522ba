"""Checking a graph of OpenVINO before it is run: its constants lie in the weights beside it, each of its own size."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from blip_core.checkpoints.shared_weights import SHARED

MAX_BYTES = 64 * 2**20
"""The most that a graph without its weights may have; ours have a few MB."""


def check_ir(path: Path) -> None:
    """Raise `ValueError` for a file that is damaged or too large, or whose constants lie elsewhere than in the weights.

    OpenVINO checks sizes by sums and products that can overflow.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large for a graph without weights")
        text = path.read_bytes()
        if b"<!" in text:
            raise ValueError("it declares entities")
        weights = path.with_name(SHARED)
        end = weights.stat().st_size if weights.is_file() else 0
        for layer in ElementTree.fromstring(text).iter("layer"):
            data = layer.find("data")
            if layer.get("type") == "Const" and data is not None:
                begin, size = int(data.attrib["offset"]), int(data.attrib["size"])
                width = int(re.sub(r"\D", "", data.attrib["element_type"]) or 8)  # of "f32", "u8", "boolean"
                elements = math.prod(map(int, filter(None, data.attrib["shape"].split(","))))
                if begin < 0 or begin + size > end or (elements * width + 7) // 8 != size:
                    raise ValueError(f"a constant has {size} bytes from {begin} on")
    except (ValueError, KeyError, SyntaxError) as error:
        raise ValueError(f"{path} is no graph of ours ({error}); export the model again.") from None
