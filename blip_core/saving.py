"""Writing a model in the Hugging Face layout: what both backends' `save_pretrained` share."""

from __future__ import annotations

import json
import re
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoint import DTYPES
from blip_core.files import atomic_path, write_json
from blip_core.generation import GenerationConfig
from blip_core.weights import AnyConfig, Parameter

SAFE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_pretrained(
    folder: str | Path,
    model: str,
    config: AnyConfig,
    wanted: Sequence[Parameter],
    tensors: Callable[[Parameter], np.ndarray],
    *,
    generation_config: GenerationConfig | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write `config.json`, `generation_config.json` and the weights of a model in the Hugging Face layout.

    `tensors` gives the value of one of the `wanted` parameters in PyTorch's layout; one is asked for at a time. New
    files take the place of old ones only when they are whole, so that a save that is interrupted leaves the earlier
    model readable.
    Raises `OSError` where the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; save_pretrained needs a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder, [(p.hf, lambda p=p: tensors(p)) for p in wanted], max_shard_size)  # type: ignore[misc]
    dtype = tensors(wanted[0]).dtype.name
    write_json(folder / "config.json", config.to_dict() | {"architectures": [model], "dtype": dtype})
    if generation_config is not None:
        generation_config.save_pretrained(folder)


def write_safetensors(
    folder: Path, tensors: Iterable[tuple[str, Callable[[], np.ndarray]]], max_shard_size: int | str
) -> None:
    """Write tensors, read one at a time, as `model.safetensors` or as shards of at most `max_shard_size` bytes."""
    limit = parse_size(max_shard_size)
    shards: list[dict[str, Callable[[], np.ndarray]]] = [{}]
    header: list[dict[str, Any]] = [{}]
    size = 0
    for name, read in tensors:
        array = read()
        if header[-1] and size + array.nbytes > limit:
            shards.append({})
            header.append({})
            size = 0
        entry = {
            "dtype": SAFE_NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [size, size + array.nbytes],
        }
        header[-1][name], shards[-1][name] = entry, read
        size += array.nbytes
    old = [*folder.glob("model-*.safetensors"), folder / "model.safetensors", folder / "model.safetensors.index.json"]
    if len(shards) == 1:
        _write_shard(folder / "model.safetensors", header[0], shards[0])
        new = [folder / "model.safetensors"]
    else:
        # Shards never take the name of an older one: until the index is replaced, the old model stays readable.
        tag = f"{uuid.uuid4().hex[:8]}-" if any(path.exists() for path in old) else ""
        new = [folder / f"model-{tag}{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for path, head, shard in zip(new, header, shards, strict=True):
            _write_shard(path, head, shard)
        total = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for head in header for entry in head.values())
        weight_map = {name: path.name for path, head in zip(new, header, strict=True) for name in head}
        index = folder / "model.safetensors.index.json"
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        new.append(index)
    for path in old:
        if path not in new:
            path.unlink(missing_ok=True)


def _write_shard(path: Path, header: dict[str, Any], tensors: dict[str, Callable[[], np.ndarray]]) -> None:
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for read in tensors.values():
            file.write(np.ascontiguousarray(read()).view(np.uint8).data)


def parse_size(size: int | str) -> int:
    """Bytes of a size such as `5GB`, `200MB`, `1GiB`, or a number of bytes. Raises `ValueError` for anything else."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if not found or found[2].upper() not in units or not (count := int(float(found[1]) * units[found[2].upper()])):
        raise ValueError(f"max_shard_size must be a size such as '5GB' or '200MB', got {size!r}.")
    return count
