"""Opening a checkpoint of any format, recognised from the file itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

from blip_core.checkpoints.checkpoint import WEIGHTS, Checkpoint, ShardedCheckpoint, open_checkpoint
from blip_core.checkpoints.saved_model import open_saved_model
from blip_core.checkpoints.torch_header import TorchHeader

HDF5 = b"\x89HDF\r\n\x1a\n"
ELSEWHERE = ("tf_model.h5", "*.weights.h5", "*.pth")
"""Weight files that a folder may hold where it has none of the Hugging Face ones, the preferred first."""


def open_any(name_or_path: str | Path, *, revision: str | None = None, values: bool = True) -> Checkpoint:
    """Open the weights of a folder, a file or a Hub repository, of any format that BLIP was published in.

    With `values=False` only names, shapes and types are wanted, which needs no framework. Raises `OSError` where there
    is nothing to read and `ValueError` for a file that is damaged, is no checkpoint, or holds a pickle with more than
    tensors in it (which is never run).
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path = _weights(path)
    if (path / "saved_model.pb").is_file() or path.name == "saved_model.pb":
        return open_saved_model(path if path.is_dir() else path.parent)
    if not path.is_file():
        return open_checkpoint(name_or_path, revision=revision)
    if path.name.endswith(".index.json"):
        return ShardedCheckpoint(path, lambda shard: _open_file(shard, values))
    return _open_file(path, values)


def _weights(folder: Path) -> Path:
    """The weight file of a folder, or the folder itself where there is none."""
    usual = [folder / name for weights in WEIGHTS for name in (weights, f"{weights}.index.json")]
    others = [path for pattern in ELSEWHERE for path in sorted(folder.glob(pattern))]
    return next((path for path in [*usual, *others] if path.is_file()), folder)


def _open_file(path: Path, values: bool) -> Checkpoint:
    with open(path, "rb") as file:
        start = file.read(len(HDF5))
    if start == HDF5:
        from blip_core.checkpoints.keras_files import open_keras  # imported late: h5py takes a while

        return open_keras(path)
    if zipfile.is_zipfile(path):
        header = TorchHeader(path)  # refuses what PyTorch should never see
        return open_checkpoint(path) if values else header
    return open_checkpoint(path)
