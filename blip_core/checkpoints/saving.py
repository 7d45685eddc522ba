"""Writing a model: its weights in a format, whole or in shards, and its configuration."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints.formats import FORMATS, Format
from blip_core.checkpoints.sharded import INDEX
from blip_core.checkpoints.writing import About, LazyTensor
from blip_core.files import atomic_path, write_json
from blip_core.generation import GenerationConfig
from blip_core.parameters.heads import AnyConfig
from blip_core.parameters.models import Parameter


def write_pretrained(
    folder: str | Path,
    model: str,
    config: AnyConfig,
    wanted: Sequence[Parameter],
    value: Callable[[Parameter], np.ndarray],
    *,
    generation_config: GenerationConfig | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write `config.json`, `generation_config.json` and the weights of a model in the Hugging Face layout.

    `value` gives the array of one of the `wanted` parameters in PyTorch's layout; one is asked for at a time. New
    files replace old ones only when they are whole, so that a save that is interrupted leaves the earlier model
    readable. Raises `OSError` if the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; save_pretrained needs a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [LazyTensor(p.stored_as, p.shape, value(p).dtype, partial(value, p), p) for p in wanted]
    row, about = FORMATS["safetensors"], About(model, config_dict(model, config, tensors[0].dtype))
    write_model(folder, row, row.arrange(tensors), about, max_shard_size)
    if generation_config is not None:
        generation_config.save_pretrained(folder)


def config_dict(model: str, config: AnyConfig, dtype: np.dtype) -> dict[str, Any]:
    """Return what `config.json` says of a model whose weights are of a type."""
    return config.to_dict() | {"architectures": [model], "dtype": dtype.name}


def write_model(
    folder: Path, format: Format, tensors: Sequence[LazyTensor], about: About, max_shard_size: int | str = "5GB"
) -> None:
    """Write weights in a format, in shards of at most `max_shard_size` bytes if it can be sharded, and `config.json`.

    Files of an older model are removed when the new one is whole.
    """
    name = format.files[0]
    stem, suffix = name.split(".", 1)
    shards = _split(tensors, parse_size(max_shard_size)) if format.sharded else [list(tensors)]
    index = folder / f"{name}{INDEX}"
    old = [*folder.glob(f"{stem}-*.{suffix}"), folder / name, index]
    new = [folder / name]
    if len(shards) > 1:
        # Shards never take the name of an older one: until the index is replaced, the old model stays readable.
        tag = f"{uuid.uuid4().hex[:8]}-" if any(path.exists() for path in old) else ""
        new = [folder / f"{stem}-{tag}{i + 1:05}-of-{len(shards):05}.{suffix}" for i in range(len(shards))]
    assert format.write is not None
    for path, shard in zip(new, shards, strict=True):
        with atomic_path(path) as temporary:
            format.write(temporary, shard, about)
    if len(shards) > 1:
        weight_map = {
            name: path.name
            for path, shard in zip(new, shards, strict=True)
            for tensor in shard
            for name in tensor.names
        }
        total = sum(tensor.nbytes for tensor in tensors)
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        new.append(index)
    for path in old:
        if path not in new:
            path.unlink(missing_ok=True)
    write_json(folder / "config.json", about.config)


def _split(tensors: Sequence[LazyTensor], limit: int) -> list[list[LazyTensor]]:
    shards: list[list[LazyTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def parse_size(size: int | str) -> int:
    """Return the bytes of a size such as `5GB`, `200MB`, `1GiB`, or a number. Raises `ValueError` for all else."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if not found or found[2].upper() not in units or not (count := int(float(found[1]) * units[found[2].upper()])):
        raise ValueError(f"max_shard_size must be a size such as '5GB' or '200MB', got {size!r}.")
    return count
