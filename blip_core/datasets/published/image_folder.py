"""Hugging Face's image folders: pictures, and a metadata file among them that has a `file_name` in each row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip_core.datasets.look import Item, Look, each, moved
from blip_core.datasets.parquet import read_parquet
from blip_core.datasets.plain_files import csv_rows, json_objects

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")
"""Folders that name a split in the paths of one metadata file for all."""


def is_image_folder(look: Look) -> bool:
    """A folder with a metadata file, or whose folders have one each."""
    return look.is_folder and bool(_metadata(look))


def read_image_folder(look: Look) -> Iterator[Item]:
    """Yield the rows of the metadata files; a folder with one of its own is a split."""
    for folder, name in _metadata(look):
        yield from moved(_read(look.path / folder / name, folder), f"{folder}/" if folder else "")


def is_metadata(look: Look) -> bool:
    """Such a file itself: JSON lines or CSV with a `file_name`."""
    in_json = look.opening == "{" and "file_name" in look.entry and "image" not in look.entry
    names = look.heading.split(",") if look.suffix == ".csv" else []
    return in_json or ("file_name" in names and "image" not in names)


def read_metadata(look: Look) -> Iterator[Item]:
    """Yield the rows of the file."""
    return _read(look.path, "")


def _metadata(look: Look) -> list[tuple[str, str]]:
    """The folder, "" or one below, and the name of each metadata file."""
    if here := [("", name) for name in METADATA if name in look.names]:
        return here[:1]
    found = []
    for folder in sorted(name for name in look.names if not name.startswith(".")):
        there = [name for name in METADATA if (look.path / folder / name).is_file()]
        found += [(folder, name) for name in there[:1]]
    return found


def _read(path: Path, folder: str) -> Iterator[Item]:
    if path.suffix == ".parquet":
        yield from moved(read_parquet(path), "", lambda row: _fields({"file_name": row.get("image"), **row}, folder))
        return
    rows = json_objects(path) if path.suffix == ".jsonl" else csv_rows(path)
    yield from each(rows, lambda row: _fields(row, folder))


def _fields(row: Any, folder: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"must be an object, got {row!r:.80}")
    fields = {"caption": row.get("text"), **row}
    if isinstance(names := row.get("file_names"), list):
        fields["images"] = [os.path.join(folder, name) if isinstance(name, str) else name for name in names]
    elif isinstance(name := row.get("file_name", row.get("image_file_name")), str):
        fields["image"] = os.path.join(folder, name)
        first = name.split("/")[0]
        split = folder or (first if first in SPLITS else row.get("split"))
        return {**fields, "split": split}
    return {**fields, "split": folder or row.get("split")}
