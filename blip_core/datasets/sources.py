"""Opening data sets: JSON, JSON lines, CSV and Parquet, folders of pictures with texts beside them, and tar shards."""

from __future__ import annotations

import csv
import glob
import json
import os
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from blip_core.datasets.entries import make_example, sidecar_entry
from blip_core.datasets.examples import Dataset, Picture, StoredExamples
from blip_core.datasets.parquet import MAGIC, read_parquet
from blip_core.datasets.shards import read_shard
from blip_core.processing.picture_files import SUFFIXES
from blip_core.tasks import get_task

Source = str | os.PathLike[str]
Root = Source | Mapping[str, Source] | None
Item = tuple[str, tuple[Picture, ...], dict[str, Any]] | tuple[str, str]
"""What a reader finds: a place in the file, pictures and fields; or a place and what is wrong there."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def open_dataset(paths: Source | Sequence[Source], task: str, image_root: Root = None) -> Dataset:
    """Open the examples of one or several files for a task: caption, retrieval, vqa, nlvr or pretrain.

    A path is a JSON array, JSON lines, CSV or Parquet, a folder, or a tar shard; a text may be a pattern of them, with
    `*` or braces ("train-{0000..0015}.tar"). Pictures that a file names lie in `image_root`, or in the folder of that
    file, and never outside; without `image_root` absolute paths are taken as they are. `image_root` may be a dictionary
    of such folders by the entries' field `dataset`, as VQA v2 ({"vqa": ..., "vg": ...}) needs.

    An entry that cannot be used does not end anything: it is in `problems` of the result. Pictures are looked for but
    not read. Examples lie in a temporary file, and take no memory that counts. Raises `ValueError` for another task, a
    file that is no such file, and where not one example can be used, and `OSError` for a path that is missing, a shard
    that is written to meanwhile, or where temporary files have no room.
    """
    row = get_task(task)
    sources = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = [file for source in sources for file in _expand(source)]
    shared = {name for name, count in Counter(file.name for file in files).items() if count > 1}
    examples = StoredExamples()
    problems: list[tuple[str, str]] = []
    for number, file in enumerate(files):
        name = f"{number}/{file.name}" if file.name in shared else file.name
        for place, *found in _read(file, image_root):
            key = f"{name}:{place}" if place else name
            try:
                if len(found) == 1:
                    raise ValueError(found[0])
                examples.append(make_example(row, key, *found))
            except ValueError as error:
                problems.append((key, str(error)))
    examples.flush()
    if not examples:
        reason = f"; the first of {len(problems)} problems: {': '.join(problems[0])}" if problems else ""
        raise ValueError(f"No example for {task} in {', '.join(map(str, sources)) or 'no file at all'}{reason}.")
    return Dataset(task, examples, problems)


def _expand(source: Source) -> list[Path]:
    """The files that a path or a pattern means. Raises `OSError` where there is none."""
    path = Path(source).expanduser()
    if path.exists():
        return [path]
    names = _expand_braces(str(path))
    files = [match for name in names for match in (sorted(glob.glob(name, recursive=True)) or [name])]
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        raise FileNotFoundError(f"{missing[0]} does not exist{'' if len(files) == 1 else f' (of {source})'}.")
    return [Path(file) for file in files]


def _expand_braces(pattern: str) -> list[str]:
    found = BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last, names = found.groups()
    if names is None:
        parts = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        parts = names.split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + part + rest for part in parts for rest in _expand_braces(after)]


def _read(file: Path, image_root: Root) -> Iterator[Item]:
    if file.is_dir():
        return _read_folder(file)
    with open(file, "rb") as opened:
        start = opened.read(512)
    if file.suffix == ".tar" or start[257:262] == b"ustar":
        return read_shard(file)
    if file.suffix.lower() == ".parquet" or start[:4] == MAGIC:
        return read_parquet(file, _PictureFinder(file.parent, image_root).find)
    if start[:2] == b"\x1f\x8b":
        raise ValueError(f"{file} is compressed, in which nothing can be found by its place; unpack it with gunzip.")
    if file.suffix.lower() == ".csv":
        return _read_entries(_rows(file), file, image_root)
    is_array = start.removeprefix(BOM_UTF8).lstrip()[:1] == b"["
    return _read_entries(_array(file) if is_array else _lines(file), file, image_root)


def _read_entries(entries: Iterator[tuple[str, Any]], file: Path, image_root: Root) -> Iterator[Item]:
    finder = _PictureFinder(file.parent, image_root)
    for place, entry in entries:
        try:
            if isinstance(entry, Exception):
                raise ValueError(f"is not valid {'CSV' if isinstance(entry, csv.Error) else 'JSON'}: {entry}")
            if not isinstance(entry, dict):
                raise ValueError(f"must be an object, got {entry!r:.80}")
            yield place, finder.find(entry), entry
        except ValueError as error:
            yield place, str(error)


def _array(file: Path) -> Iterator[tuple[str, Any]]:
    """Entries by their index from 0."""
    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a valid JSON array ({error}); restore it or make it anew.") from None
    return ((str(number), entry) for number, entry in enumerate(entries))


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Entries, or what is wrong with them, by the number of the line from 1."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(BOM_UTF8) if number == 1 else line
            if line.strip():
                try:
                    yield str(number), json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield str(number), error


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Rows as dictionaries, or what is wrong with them, by the number of the last line of each from 2."""
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        while True:
            try:
                if "image" not in (rows.fieldnames or ()):
                    raise ValueError(f"{file} must have a column named image, got {rows.fieldnames or 'none'!r:.200}.")
                row = next(rows)
                yield str(rows.line_num), row
            except csv.Error as error:
                yield str(rows.line_num), error
            except StopIteration:
                return


class _PictureFinder:
    """Where the pictures lie that the entries of a JSON file name."""

    def __init__(self, folder: Path, image_root: Root):
        roots = image_root if isinstance(image_root, Mapping) else {"": image_root or folder}
        self.roots = {kind: os.path.join(os.path.abspath(os.path.expanduser(root)), "") for kind, root in roots.items()}
        self.by_kind = isinstance(image_root, Mapping)
        self.allow_absolute = image_root is None
        self.names = cache(_names)  # a folder is listed once; asking for each file takes long on a network

    def find(self, entry: dict[str, Any]) -> tuple[Picture, ...]:
        """The pictures of an entry, in `image` or `images`. Raises `ValueError` where one is not to be had."""
        names = entry["images"] if "images" in entry else [entry.get("image")]
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"image must be the path of a picture, images a list of them, got {names!r:.80}")
        kind = entry.get("dataset") if self.by_kind else ""
        if not isinstance(kind, str) or kind not in self.roots:
            raise ValueError(f"dataset must be one of {', '.join(self.roots)}, for which image_root has a folder")
        return tuple(Picture(self._path(name, self.roots[kind])) for name in names)

    def _path(self, name: str, root: str) -> str:
        """The path of a picture in `root`, which ends in a slash."""
        path = os.path.normpath(os.path.join(root, name))
        if not path.startswith(root) and not (self.allow_absolute and os.path.isabs(name)):
            raise ValueError(f"the picture {name!r:.200} lies outside of {root}; name a folder that holds all of them")
        folder, base = os.path.split(path)
        if base not in self.names(folder):
            raise ValueError(f"the picture {path!r:.200} does not exist")
        return path


def _names(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):  # the latter for a zero byte
        return frozenset()


def _read_folder(folder: Path) -> Iterator[Item]:
    """Pictures with a .txt or .json of the same name beside them, in this folder and those below."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = {name for name in files if not name.startswith(".")}
        pictures = {os.path.splitext(name)[0] for name in names if name.lower().endswith(SUFFIXES)}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            path = os.path.join(parent, name)
            place = os.path.relpath(path, folder)
            if suffix.lower() in SUFFIXES:
                sidecars = {end: os.path.join(parent, stem + end) for end in (".txt", ".json") if stem + end in names}
                try:
                    yield place, (Picture(path),), sidecar_entry({k: Path(v).read_bytes() for k, v in sidecars.items()})
                except (OSError, ValueError) as error:
                    yield place, str(error)
            elif suffix in (".txt", ".json") and stem not in pictures:
                yield place, "has no picture beside it"
