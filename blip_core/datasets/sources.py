"""Opening data sets: JSON, JSON lines, CSV and Parquet, folders of pictures with texts beside them, and tar shards."""

from __future__ import annotations

import csv
import glob
import json
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
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
from blip_core.processing.texts import HALF
from blip_core.tasks import get_task

Source = str | os.PathLike[str]
Root = Source | Mapping[str, Source] | None
Item = tuple[str, tuple[Picture, ...], dict[str, Any]] | tuple[str, str]
"""What a reader yields: a place in the file, pictures and fields; or a place and what is wrong there."""
MAX_LINE_BYTES = 2**20
SAVE = "save it as UTF-8 (a spreadsheet: as CSV UTF-8)"
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def open_dataset(paths: Source | Sequence[Source], task: str, image_root: Root = None) -> Dataset:
    """Open the examples of one or several files for a task.

    An entry that cannot be used ends nothing: it is in `problems` of the result. Pictures are looked for but not read.
    Examples lie in a temporary file, so that memory does not limit their number.

    Args:
        paths: A JSON array, JSON lines, CSV, Parquet, a folder of pictures with texts beside them, a tar shard, or a
            list of those. A string may be a pattern, with `*` or braces ("train-{0000..0015}.tar").
        task: A name in `blip_core.tasks.TASKS`.
        image_root: The folder of the pictures that a file names, unless given the file's own; pictures outside of it
            are refused. Without it absolute paths are taken as they are. It may be a dictionary of such folders by the
            entries' field `dataset`, as VQA v2 ({"vqa": ..., "vg": ...}) needs.

    Returns:
        The examples in the order of the files, and what is wrong with the rest.

    Raises:
        ValueError: For an unknown task, a file of another kind, and if not one example can be used.
        OSError: For a path that is missing, a shard that is written to meanwhile, and if there is no room for the
            temporary file.

    Example:
        >>> entry = {"image": "tests/data/emoji/1f98a.png", "caption": "a fox"}
        >>> _ = Path("captions.jsonl").write_text(json.dumps(entry))
        >>> open_dataset("captions.jsonl", "caption")[0].texts
        ('a fox',)
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
            except RecursionError:
                problems.append((key, "is nested too deeply"))
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
        raise ValueError(f"{file} is compressed; entries cannot be found by their place in it: unpack it with gunzip.")
    if start[:2] in (BOM_UTF16_BE, BOM_UTF16_LE):
        raise ValueError(f"{file} is UTF-16; {SAVE}.")
    if file.suffix.lower() == ".csv":
        return _read_entries(_rows(file), file, image_root)
    is_array = start.removeprefix(BOM_UTF8).lstrip()[:1] == b"["
    return _read_entries(_array(file) if is_array else _objects(file), file, image_root)


def _read_entries(entries: Iterator[tuple[str, Any]], file: Path, image_root: Root) -> Iterator[Item]:
    finder = _PictureFinder(file.parent, image_root)
    for place, entry in entries:
        try:
            if isinstance(entry, ValueError):
                raise entry
            if not isinstance(entry, dict):
                raise ValueError(f"must be an object, got {entry!r:.80}")
            yield place, finder.find(entry), entry
        except (ValueError, RecursionError) as error:
            yield place, "is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _array(file: Path) -> Iterator[tuple[str, Any]]:
    """Entries by their index from 0."""
    try:
        entries = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a valid JSON array ({error}); correct it or restore it.") from None
    return ((str(number), entry) for number, entry in enumerate(entries))


def _lines(file: Path) -> Iterator[bytes | None]:
    """Yield the lines of a file, without a byte-order mark; None for a line that is too long, which is not kept."""
    with open(file, "rb") as opened:
        if opened.read(len(BOM_UTF8)) != BOM_UTF8:
            opened.seek(0)
        while line := opened.readline(MAX_LINE_BYTES):
            too_long = len(line) == MAX_LINE_BYTES and line[-1:] != b"\n"
            while len(line) == MAX_LINE_BYTES and line[-1:] != b"\n":
                line = opened.readline(MAX_LINE_BYTES)
            yield None if too_long else line


def _objects(file: Path) -> Iterator[tuple[str, Any]]:
    """Entries of JSON lines, or what is wrong with them, by the number of the line from 1."""
    for number, line in enumerate(_lines(file), 1):
        try:
            if line is None:
                raise ValueError(f"is longer than {MAX_LINE_BYTES} bytes, which no example needs")
            if line.strip():
                yield str(number), json.loads(line)
        except UnicodeDecodeError as error:
            yield str(number), ValueError(f"is not UTF-8 ({error}); {SAVE}")
        except json.JSONDecodeError as error:
            yield str(number), ValueError(f"is not valid JSON: {error}")
        except (ValueError, RecursionError) as error:
            yield str(number), ValueError(str(error))


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Rows as dictionaries, or what is wrong with them, by the number of the last line of each from 2."""
    too_long = "-" * (csv.field_size_limit() + 1) + "\n"  # which the reader refuses
    rows = csv.reader(
        (too_long if line is None else line.decode("utf-8", "surrogateescape") for line in _lines(file)), strict=True
    )
    heading: list[str] = []
    while True:
        try:
            row = next(rows)
            if not heading:
                heading = row
                if "image" not in heading:
                    raise ValueError(f"{file} must have a column named image, got {heading or 'none'!r:.200}.")
            elif len(row) not in (0, len(heading)):
                quote = "; put a text that holds a comma into double quotes" if len(row) > len(heading) else ""
                yield str(rows.line_num), ValueError(f"has {len(row)} fields, the heading {len(heading)}{quote}")
            elif any(HALF.search(text) for name, text in zip(heading, row, strict=False) if name != "image"):
                yield str(rows.line_num), ValueError(f"is not UTF-8; {SAVE}")
            elif row:
                yield str(rows.line_num), dict(zip(heading, row, strict=True))
        except csv.Error as error:
            yield str(rows.line_num), ValueError(f"is not valid CSV: {error}")
        except StopIteration:
            if not heading:
                raise ValueError(f"{file} must have a column named image, got none.") from None
            return


class _PictureFinder:
    """Find the pictures that the entries of a file name."""

    def __init__(self, folder: Path, image_root: Root):
        roots = image_root if isinstance(image_root, Mapping) else {"": image_root or folder}
        self.roots = {kind: os.path.join(os.path.abspath(os.path.expanduser(root)), "") for kind, root in roots.items()}
        self.by_kind = isinstance(image_root, Mapping)
        self.allow_absolute = image_root is None
        self.names = cache(_names)  # lists a folder once: a network file system is slow to ask for each file

    def find(self, entry: dict[str, Any]) -> tuple[Picture, ...]:
        """Return the pictures of an entry, in `image` or `images`. Raises `ValueError` for one that is not there."""
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
