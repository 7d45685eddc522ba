"""Checkpoints of several files and an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint, without_wrapper
from blip_core.files import read_json

INDEX = ".index.json"


def file_of_variant(name: str, variant: str | None) -> str:
    """Return the name of a weight file, or of the index of shards, of a variant: `model.fp16.safetensors`."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}" if variant else name


def is_index(path: Path) -> bool:
    """Say whether a file is the index of shards, also of a variant."""
    return path.suffix == ".json" and ".index." in path.name


class ShardedCheckpoint(Checkpoint):
    """The files that an index names, each opened by `open_file`.

    Raises `ValueError` if the index is damaged, names a file that is missing, or does not fit the files.
    """

    def __init__(self, index: Path, open_file: Callable[[Path], Checkpoint]):
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise ValueError(f"{index} must hold a 'weight_map' from tensor names to file names.")
        self._shards: dict[str, Checkpoint] = {}
        for name in sorted(set(weight_map.values())):
            if Path(name).name != name or not (index.parent / name).is_file() or is_index(Path(name)):
                raise ValueError(f"{index} names the shard {name!r}, which is not a file of its folder; download it.")
            self._shards[name] = open_file(index.parent / name)
        self._shard_of: dict[str, str] = {}
        for name, shard in self._shards.items():
            for tensor in shard:
                if tensor in self._shard_of:
                    raise ValueError(f"{index.parent}: {tensor} is both in {self._shard_of[tensor]} and in {name}.")
                self._shard_of[tensor] = name
        lacking = sorted({without_wrapper(name) for name in weight_map} - self._shard_of.keys())
        if lacking or not weight_map:
            raise ValueError(f"{index} names tensors that its shards do not hold: {', '.join(lacking) or 'none'}.")
        shapes = {tensor: self._shards[name].shapes[tensor] for tensor, name in self._shard_of.items()}
        dtypes = {tensor: self._shards[name].dtypes[tensor] for tensor, name in self._shard_of.items()}
        super().__init__(index, next(iter(self._shards.values())).format, shapes, dtypes)

    def place(self, name: str) -> Any:
        shard = self._shard_of[name]
        return shard, self._shards[shard].place(name)

    def release(self, name: str) -> None:
        self._shards[self._shard_of[name]].release(name)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._shard_of[name]][name]
