"""Reading the tensors of a checkpoint, one at a time: safetensors, `pytorch_model.bin`, original `.pth`.

Tensors come as NumPy arrays that lie in the mapped file where the format allows, so that a large checkpoint is not
held in memory twice. bfloat16 is `ml_dtypes.bfloat16`.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from blip_core.files import read_json
from blip_core.hub import resolve_folder

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Weight files of a folder, the preferred first; each may be sharded, with `.index.json` beside it."""

PATTERNS = ["*.json", "vocab.txt"]
"""What else a model folder holds that is wanted from the Hub."""

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype("int64"), "I32": np.dtype("int32"),
    "I16": np.dtype("int16"), "I8": np.dtype("int8"), "U8": np.dtype("uint8"), "BOOL": np.dtype("bool"),
}  # fmt: skip


class Checkpoint(Mapping[str, np.ndarray]):
    """Tensors by name. `checkpoint[name]` reads one; `shapes` and `dtypes` tell of all without reading any.

    The arrays may be views of the mapped file: writing to one changes memory, never the file.
    """

    def __init__(self, path: Path, format: str, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype]):
        self.path = path
        self.format = format
        self.shapes = shapes
        self.dtypes = dtypes
        self.config: dict[str, Any] | None = None
        """Settings of a BLIP that the file itself holds, as a `.pth` written by `conversion` does."""

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        raise KeyError(name)


class SafetensorsCheckpoint(Checkpoint):
    """One safetensors file, mapped into memory."""

    def __init__(self, path: Path):
        try:
            with safe_open(path, framework="np"):  # checks the whole header: sizes, offsets, overlaps
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({reason(error)}); restore or download it again."
            ) from None
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        unknown = {entry["dtype"] for entry in header.values()} - DTYPES.keys()
        if unknown:
            raise ValueError(f"{path} holds tensors of type {', '.join(sorted(unknown))}, which no BLIP model has.")
        self._begin = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
        self._bytes = np.memmap(path, mode="c")
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        super().__init__(path, "safetensors", shapes, {name: DTYPES[entry["dtype"]] for name, entry in header.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        begin, shape, dtype = self._begin[name], self.shapes[name], self.dtypes[name]
        raw = self._bytes[begin : begin + math.prod(shape) * dtype.itemsize]
        return np.asarray(raw).view(dtype).reshape(shape)


class TorchCheckpoint(Checkpoint):
    """One file of `torch.save`: `pytorch_model.bin`, or an original `.pth` with its tensors under "model"."""

    def __init__(self, path: Path):
        content = _load_torch(path)
        wrapped = is_wrapped(content)
        self._tensors = _tensors(path, content["model"] if wrapped else content)
        dtypes = {name: np.dtype(str(t.dtype).removeprefix("torch.")) for name, t in self._tensors.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        super().__init__(path, "pth" if wrapped else "pytorch_model.bin", shapes, dtypes)
        self.config = blip_settings(content) if wrapped else None

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name].detach()
        if self.dtypes[name] == ml_dtypes.bfloat16:
            import torch

            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


class ShardedCheckpoint(Checkpoint):
    """Several files, each opened by `open_file`, and their index."""

    def __init__(self, index: Path, open_file: Callable[[Path], Checkpoint] | None = None):
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise ValueError(f"{index} must hold a 'weight_map' from tensor names to file names.")
        self._shards: dict[str, Checkpoint] = {}
        for name in sorted(set(weight_map.values())):
            if Path(name).name != name or not (index.parent / name).is_file():
                raise ValueError(f"{index} names the shard {name!r}, which is not a file of its folder; download it.")
            self._shards[name] = (open_file or _open_file)(index.parent / name)
        self._shard_of: dict[str, str] = {}
        for name, shard in self._shards.items():
            for tensor in shard:
                if tensor in self._shard_of:
                    raise ValueError(f"{index.parent}: {tensor} is both in {self._shard_of[tensor]} and in {name}.")
                self._shard_of[tensor] = name
        lacking = sorted(weight_map.keys() - self._shard_of.keys())
        if lacking:
            raise ValueError(f"{index} names tensors that its shards do not hold: {', '.join(lacking)}.")
        shapes = {tensor: self._shards[name].shapes[tensor] for tensor, name in self._shard_of.items()}
        dtypes = {tensor: self._shards[name].dtypes[tensor] for tensor, name in self._shard_of.items()}
        super().__init__(index, next(iter(self._shards.values())).format, shapes, dtypes)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._shard_of[name]][name]


def open_checkpoint(name_or_path: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Open the weights of a folder, a file or a Hub repository.

    In a folder `model.safetensors` comes before `pytorch_model.bin`, and each may be sharded. From the Hub only the
    preferred one is downloaded. Raises `OSError` where there is nothing to read and `ValueError` for a file that is
    damaged, is not a checkpoint, or holds a pickle with more than tensors in it (which is never run).
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return ShardedCheckpoint(path) if path.name.endswith(".index.json") else _open_file(path)
    for weights in WEIGHTS:
        stem = weights.split(".")[0]
        patterns = [*PATTERNS, weights, f"{stem}-*"]
        folder = resolve_folder(name_or_path, revision=revision, patterns=patterns)
        if (folder / weights).is_file():
            return _open_file(folder / weights)
        if (folder / f"{weights}.index.json").is_file():
            return ShardedCheckpoint(folder / f"{weights}.index.json")
    raise FileNotFoundError(
        f"{name_or_path} holds no weights: expected {' or '.join(WEIGHTS)} (or their shards and index), "
        "or give the path of a .safetensors, .bin or .pth file."
    )


def _open_file(path: Path) -> Checkpoint:
    with open(path, "rb") as file:
        start = file.read(9)
    # A safetensors file begins with the length of its header, whose first byte may be that of a pickle.
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return SafetensorsCheckpoint(path)
    if zipfile.is_zipfile(path) or start[:1] == b"\x80":  # a zip of torch.save, or a pickle of its older form
        return TorchCheckpoint(path)
    if start[:4] == b"PK\x03\x04":
        raise ValueError(f"{path} is cut off: its end is missing; download it again.")
    raise ValueError(f"{path} is not a whole checkpoint: expected a safetensors file or one of torch.save.")


def _load_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path} can only be read with PyTorch: pip install torch, or use model.safetensors."
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and was not loaded, as it could run code ({reason(error)})."
        ) from None
    except (
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        OSError,
        SafetensorError,
    ) as error:
        raise ValueError(
            f"{path} is damaged or not a PyTorch checkpoint ({reason(error)}); download it again."
        ) from None


def reason(error: Exception) -> str:
    """What another library says is wrong with a file, in one line that a hostile file cannot make endless."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def is_wrapped(content: Any) -> bool:
    """Say whether the tensors lie under "model", as in the original's files, with optimizer and epoch beside them."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def blip_settings(content: dict[str, Any]) -> dict[str, Any] | None:
    """The BLIP configuration beside the tensors; the original's own "config" is of its training, and is passed over."""
    config = content.get("config")
    return config if isinstance(config, dict) and config.get("model_type") == "blip" else None


def _tensors(path: Path, content: Any) -> dict[str, Any]:
    import torch

    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path} must hold a dictionary of tensors by name, as torch.save of a state_dict writes it.")
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    odd = [name for name, t in tensors.items() if t.layout != torch.strided or t.is_quantized]
    if odd or not tensors:
        raise ValueError(f"{path} must hold plain dense tensors; {odd[0] if odd else 'it holds none'}.")
    return tensors
