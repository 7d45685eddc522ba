"""The registry of checkpoint formats, and the one door to checkpoints, `open_checkpoint`.

To add a format, write a file with a function that reads it, one that writes it, and add a row to `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.sharded import INDEX, ShardedCheckpoint, file_of_variant, is_index
from blip_core.hub import resolve_folder
from blip_core.lazy import Function
from blip_core.parameters.graph_parts import PARTS
from blip_core.parameters.heads import HEADS

HUB_PATTERNS = ("*.json", "vocab.txt")
"""The files beside the weights that are wanted from a Hub repository."""

TRAINER_STATE = ("optimizer.pt", "optimizer.bin", "scheduler.*", "rng_state*.pth", "trainer_state.json", "scaler.pt")
"""Files that other people's trainers write beside the weights to go on later; patterns."""


@dataclass(frozen=True)
class Format:
    """A format of checkpoints: a row of `FORMATS`.

    Functions are callables, or a `Function`, which is imported when it is first called.

    Attributes:
        name: What `convert --to` and reports call it.
        files: Names of its file in a folder, or patterns of them; the first is what `convert` writes.
        recognise: `(path, first 16 bytes)` to whether a file is of this format.
        read: `(path)` to a `Checkpoint`. Raises `ValueError` for a file that is damaged.
        write: `(path, tensors, about)`, tensors as `arrange` gave them; None for a format that is only read.
        arrange: `(tensors)` to the tensors of the file with the names that `read` will show, where these are not
            the Hugging Face names, or a tensor with several is not shown under each.
        read_own: As `read`, for a file that this process has just written.
        sharded: Whether it may be split into several files with an index.
        suffix: A destination of `convert` that ends in this is a file, and not a folder.
        heads: The model classes that it can hold; empty for all.
        refused_types: Names of types of weights that it cannot hold.
        training_state: Whether the training state of contrastive models is "kept" as far as the source has it,
            written "whole", or "left out".
        warn: `(config)` to sentences about what programs that read this format will do otherwise.
        export: `(model, folder, **options)` adds graphs to a folder with the weights, and returns the file of each
            part: the format is an export (see `exported.py`).
        engine: The engine whose model is exported.
        options: The keywords of `convert` that the export takes.
        packages: What must be installed to write it, besides the engine, each with the extra that installs it.
        weights: Lower precisions of its weights that it offers, each with a package and its extra as well.
        framework: The engine whose format it is, which `from_tf` and `from_pt` ask for.
        tied: Whether it can only hold a projection to the vocabulary that is tied to the word embeddings.
        upon: Whether it lies upon another checkpoint, its base, and in a folder of both is what is meant. `read` then
            takes `(path, base_model, open_base)`.
        replaces: The name of a format whose file of the same model would hide this one, or be hidden by it, in a
            folder: writing one removes the other.
    """

    name: str
    files: tuple[str, ...]
    recognise: Callable[[Path, bytes], bool]
    read: Callable[..., Checkpoint]
    write: Callable[..., None] | None = None
    arrange: Callable[[list[Any]], list[Any]] = list
    read_own: Callable[[Path], Checkpoint] | None = None
    sharded: bool = False
    suffix: str = ""
    heads: tuple[str, ...] = ()
    refused_types: tuple[str, ...] = ()
    training_state: str = "kept"
    warn: Callable[[Any], list[str]] | None = None
    export: Callable[..., dict[str, str]] | None = None
    engine: str = ""
    options: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    framework: str = "pt"
    tied: bool = False
    upon: bool = False
    replaces: str = ""

    @property
    def file(self) -> str:
        """The file of weights that `convert` writes into a folder; graphs are made from those of safetensors."""
        return "model.safetensors" if self.export else self.files[0]

    def find(self, folder: Path, variant: str | None = None) -> Path | None:
        """Return the file of this format in a folder, or the index of its shards; None if there is neither."""
        names = [name for file in self.files for name in (file, *([f"{file}{INDEX}"] * self.sharded))]
        paths = (path for name in names for path in sorted(folder.glob(file_of_variant(name, variant))))
        return next((path for path in paths if path.is_file() and not is_trainer_state(path)), None)

    def hub_patterns(self, variant: str | None = None) -> list[str]:
        """Return which files of a Hub repository it needs."""
        files = [file_of_variant(file, variant) for file in self.files]
        return [*HUB_PATTERNS, *files, *(f"{file.rpartition('.')[0]}-*" for file in files if self.sharded)]


def is_trainer_state(path: Path) -> bool:
    """Say whether a file holds the state of a trainer, and no weights."""
    return any(path.match(pattern) for pattern in TRAINER_STATE)


SAFETENSORS = ("safetensors", "int8")
"""The formats whose files are safetensors."""


def _is_safetensors(path: Path, start: bytes) -> bool:
    # The file begins with the length of its header, whose first byte may be that of a pickle.
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _is_torch(path: Path, start: bytes) -> bool:
    # A zip, or a pickle of PyTorch before 1.6.
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and not _is_safetensors(path, start))


def _is_hdf5(path: Path, start: bytes) -> bool:
    return start[:8] == b"\x89HDF\r\n\x1a\n"


def _graphs(function: str, engine: str) -> dict[str, Any]:
    """What rows of exports have in common, given the function that makes the graphs and its engine."""
    write = _here("safetensors_file:write")
    return {"write": write, "training_state": "left out", "export": Function(function), "engine": engine}


def _export(name: str, function: str, engine: str, **options: Any) -> Format:
    """An export without a file that is opened: its weights are a checkpoint of another format, or in its graphs."""
    return Format(
        name, (), lambda path, start: False, read=_here("safetensors_file:read"), **_graphs(function, engine),
        **{"refused_types": ("bfloat16",), **options},
    )  # fmt: skip


def _here(function: str) -> Function:
    return Function(f"blip_core.checkpoints.{function}")


LOOPING = tuple(head for part in PARTS.values() if part.loop for head in part.heads)
"""The model classes that have a part with a whole search."""

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "safetensors", ("model.safetensors",), _is_safetensors, read=_here("safetensors_file:read"),
            write=_here("safetensors_file:write"), arrange=_here("safetensors_file:arrange"), sharded=True,
            replaces="int8",
        ),
        Format(
            "int8", ("model.int8.safetensors",), lambda path, start: path.name.startswith("model.int8."),
            read=_here("int8_file:read"), write=_here("safetensors_file:write"), arrange=_here("int8_file:arrange"),
            read_own=_here("safetensors_file:read"), training_state="left out", replaces="safetensors",
        ),
        Format(
            "pytorch_model.bin", ("pytorch_model.bin",), _is_torch, read=_here("torch_reader:read"),
            write=_here("torch_writer:write"), arrange=_here("torch_writer:arrange"), sharded=True,
        ),
        Format(
            "tf_model.h5", ("tf_model.h5",), _is_hdf5, read=_here("keras_hdf5:read"),
            write=_here("keras_hdf5:write_keras2"), arrange=_here("keras_hdf5:arrange_keras2"),
            read_own=_here("keras_hdf5:read_own"), refused_types=("bfloat16",), training_state="left out",
            framework="tf",
        ),
        Format(
            "weights.h5", ("model.weights.h5", "*.weights.h5"), _is_hdf5, read=_here("keras_hdf5:read"),
            write=_here("keras_hdf5:write_keras3"), read_own=_here("keras_hdf5:read_own"), training_state="whole",
            framework="tf", tied=True,
        ),
        Format(
            "pth", ("model.pth", "*.pth"), _is_torch, read=_here("torch_reader:read"),
            write=_here("torch_writer:write_original"), arrange=_here("torch_writer:arrange_original"),
            suffix=".pth", heads=tuple(head for head, row in HEADS.items() if row.original),
            warn=_here("torch_writer:differences_from_original"), tied=True,
        ),
        Format(
            "savedmodel", ("saved_model.pb",), lambda path, start: path.name == "saved_model.pb",
            read=_here("saved_model:read"), framework="tf", **_graphs("blip_tf.export:export_saved_model", "tf"),
            options=("max_new_tokens",), refused_types=("float16", "bfloat16"),
        ),
        _export(
            "onnx", "blip_pt.onnx_export:export_onnx", "pt", options=("free_size", "weights"),
            packages={"onnx": "onnx"}, weights={"int8": {}, "int8-dynamic": {}},
        ),
        _export(
            "openvino", "blip_pt.openvino_export:export_openvino", "pt", options=("free_size", "weights"),
            packages={"openvino": "openvino", "onnx": "openvino"}, weights={"int8": {"nncf": "int8"}},
        ),
        _export(
            "onnx-caption", "blip_pt.onnx_loop:export_onnx_caption", "pt", options=("free_size", "max_new_tokens"),
            packages={"onnx": "onnx"}, heads=LOOPING,
        ),
        _export("torch-export", "blip_pt.programs:export_programs", "pt", refused_types=("float16", "bfloat16")),
        _export(
            "litert", "blip_tf.export:export_litert", "tf", options=("weights",), weights={"int8": {}},
            refused_types=("float16", "bfloat16"),
        ),
        Format(
            "adapter", ("adapter_model.safetensors", "adapter_model.bin"),
            lambda path, start: path.name.startswith("adapter_model."), read=_here("adapters:read"), upon=True,
        ),
    )
}  # fmt: skip
"""The formats by name. In a folder, the first one that is there is opened."""


def register(format: Format) -> None:
    """Add a format. Of several that recognise a file, the one that was added last opens it."""
    FORMATS[format.name] = format


def open_checkpoint(
    name_or_path: str | Path,
    revision: str | None = None,
    base_model: str | Path | None = None,
    *,
    kinds: Callable[[Format], bool] = lambda row: True,
    variant: str | None = None,
    **hub: Any,
) -> Checkpoint:
    """Open the weights of a folder, a file or a Hub repository, in any format of `FORMATS`.

    No framework is needed, and no tensor is read. A file is recognised by its content. From the Hub, only the
    preferred format is downloaded.

    Args:
        name_or_path: A folder, a weight file, the index of shards, or a Hub repository such as
            "Salesforce/blip-vqa-base".
        revision: Branch, tag or commit of the Hub repository.
        base_model: The same for the base of an adapter, in place of the one that the adapter names.
        kinds: Which formats to look for in a folder.
        variant: A word in the names of weight files, such as "fp16" in model.fp16.safetensors.
        **hub: How the Hub is asked: the other options of `resolve_folder`.

    Returns:
        The checkpoint; `checkpoint[name]` reads a tensor.

    Raises:
        OSError: Nothing to read was found.
        ValueError: The file is damaged, is no checkpoint, or is a pickle with more than tensors in it, which is
            never run.
    """
    rows = [row for row in FORMATS.values() if row.upon or kinds(row)]
    checkpoint = _open(name_or_path, {**hub, "revision": revision}, rows, variant, base_model)
    if base_model is not None and checkpoint.adapter is None:
        raise ValueError(f"base_model= goes with an adapter; {checkpoint.path} is a whole checkpoint.")
    return checkpoint


def _open(
    name_or_path: str | Path,
    hub: dict[str, Any],
    rows: list[Format],
    variant: str | None = None,
    base_model: str | Path | None = None,
) -> Checkpoint:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _open_file(path, hub, base_model, upon=any(row.upon for row in rows))
    rows = [row for row in rows if row.files]
    for row in sorted(rows, key=lambda row: not row.upon):
        folder = resolve_folder(name_or_path, patterns=row.hub_patterns(variant), **hub)
        if found := row.find(folder, variant):
            return _open_file(found, hub, base_model)
    if (folder / "export.json").is_file():
        raise FileNotFoundError(
            f"{name_or_path} is an export whose weights are no checkpoint; open the model that it was made of."
        )
    if state := sorted(path.name for path in folder.iterdir() if is_trainer_state(path)):
        raise FileNotFoundError(
            f"{name_or_path} holds the state of a trainer ({', '.join(state)}) and no weights; give a checkpoint that "
            "was saved with its model, or the folder of the model itself."
        )
    names = ", ".join(file_of_variant(row.files[0], variant) for row in rows)
    raise FileNotFoundError(
        f"{name_or_path} holds no weights: expected {names} (or shards and their index); "
        "or give the path of a weight file."
    )


def _open_file(
    path: Path, hub: dict[str, Any] | None = None, base_model: str | Path | None = None, upon: bool = True
) -> Checkpoint:
    if is_index(path):
        return ShardedCheckpoint(path, partial(_open_file, upon=False))
    with open(path, "rb") as file:
        start = file.read(16)
    for row in reversed(FORMATS.values()):
        if row.recognise(path, start) and (upon or not row.upon):
            return row.read(path, *([base_model, partial(_open_base, hub or {})] if row.upon else ()))
    raise ValueError(
        f"{path} is not a whole checkpoint: its content is of no known format ({', '.join(FORMATS)}); "
        "download it again."
    )


def _open_base(hub: dict[str, Any], name_or_path: str | Path, revision: str | None) -> Checkpoint:
    """Open the base of an adapter; in a folder of both it is what lies below."""
    whole = [row for row in FORMATS.values() if not row.upon]
    return _open(name_or_path, {**hub, "revision": revision, "subfolder": ""}, whole)


def open_written(path: Path, format: Format) -> Checkpoint:
    """Open what this process has just written: a folder, or a file."""
    found = (path / format.file if format.export else format.find(path)) if path.is_dir() else path
    if found is None:
        raise FileNotFoundError(f"{path} holds no {format.files[0]}.")
    return format.read_own(found) if format.read_own else _open_file(found)
