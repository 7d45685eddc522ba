"""Exports: folders of graphs that run without the framework that made them. `export.json` says what is in one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blip_core.checkpoints.formats import Format
from blip_core.checkpoints.shared_weights import SHARED
from blip_core.engines import ENGINES, MissingFramework, get_engine
from blip_core.files import read_json, write_json
from blip_core.parameters.graph_parts import PARTS
from blip_core.parameters.heads import HEADS

NAME = "export.json"
VERSION = 1
"""Of the folder: what its files are called, and what they take and give."""


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        folder: Where it is.
        form: What `convert --to` calls it.
        head: The class of the model.
        weights: The type of the stored weights, such as "float16" or "int8".
        free_size: Whether pictures may be of any size.
        parts: The file of each part.
    """

    folder: Path
    form: str
    head: str
    weights: str
    free_size: bool
    parts: dict[str, str]

    @property
    def bytes(self) -> int:
        """The size of its files of graphs and of the weights that they share, but of a checkpoint."""
        files = {*self.parts.values(), SHARED}
        return sum((self.folder / name).stat().st_size for name in files if (self.folder / name).is_file())

    def file(self, part: str) -> Path:
        """Return the file of a part. Raises `ValueError` if the export lacks it."""
        path = self.folder / self.parts.get(part, "?")
        if not path.is_file():
            raise ValueError(f"{self.folder} lacks the part {part} ({path.name}); export the model again.")
        return path


def require_packages(row: Format, weights: str = "") -> None:
    """Raise `MissingFramework` unless everything is installed that an export needs to be made."""
    what = f"to={row.name!r}" + f" with weights={weights!r}" * bool(weights)
    for package, extra in {**row.packages, **row.weights.get(weights, {})}.items():
        if find_spec(package) is None:
            raise MissingFramework(f'{what} needs {package}, which is not installed: pip install "blip-duo[{extra}]"')
    if row.engine:
        ENGINES[row.engine].require(what)


def write_export(row: Format, folder: Path, head: str, dtype: str, **options: Any) -> Export:
    """Write the graphs of the model whose checkpoint lies in a folder, and `export.json`.

    `dtype` is the type of the checkpoint's weights, `options` are those of the form.
    """
    model = get_engine(row.engine).model_class(head).from_pretrained(folder, dtype="float32")
    assert row.export is not None
    parts = row.export(model, folder, **options)
    weights, free_size = options.get("weights") or dtype, options.get("free_size", False)
    export = Export(folder, row.name, head, weights, free_size, parts)
    about = {name: value for name, value in vars(export).items() if name != "folder"}
    write_json(folder / NAME, {"version": VERSION, **about})
    return export


def read_export(folder: Path) -> Export | None:
    """Return what a folder says of the export in it, None if it holds none.

    Raises `ValueError` for one of another version, and one whose files lie elsewhere.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    about = read_json(path)
    if (version := about.pop("version", None)) != VERSION:
        raise ValueError(
            f"{folder} is an export of version {version}, this program reads version {VERSION}; "
            "convert the model again."
        )
    kinds = {"form": str, "head": str, "weights": str, "free_size": bool, "parts": dict}
    parts = about.get("parts")
    if (
        {name: type(value) for name, value in about.items()} != kinds
        or about["head"] not in HEADS
        or not isinstance(parts, dict)
        or not all(part in PARTS and file == Path(str(file)).name for part, file in parts.items())
    ):
        raise ValueError(f"{path} does not describe an export of this project; convert the model again.")
    return Export(folder, **about)
