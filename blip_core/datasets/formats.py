"""Opening data sets: JSON arrays and JSON lines, folders, and tar shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_core.datasets.entries import make_example
from blip_core.datasets.examples import TASKS, Dataset, Example, Picture

Source = str | os.PathLike[str]
Root = Source | Mapping[str, Source] | None


def open_dataset(paths: Source | Sequence[Source], task: str, image_root: Root = None) -> Dataset:
    """Open the examples of one or several files for a task: caption, retrieval, vqa, nlvr or pretrain.

    Raises `ValueError` for another task or where not one example can be used, `OSError` for a file that is missing.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    sources = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    examples: list[Example] = []
    problems: list[tuple[str, str]] = []
    for source in sources:
        path = Path(source).expanduser()
        for where, images, entry in _read_json(path, image_root):
            try:
                examples.append(make_example(task, where, images, entry))
            except ValueError as error:
                problems.append((where, str(error)))
    if not examples:
        raise ValueError(f"{', '.join(map(str, sources))} holds no example that can be used.")
    return Dataset(task, examples, problems)


def _read_json(path: Path, image_root: Root) -> Iterator[tuple[str, tuple[Picture, ...], dict[str, Any]]]:
    root = Path(image_root) if isinstance(image_root, str | os.PathLike) else path.parent
    for number, entry in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        names = entry["images"] if "images" in entry else [entry["image"]]
        yield f"{path.name}:{number}", tuple(Picture(str(root / name)) for name in names), entry
