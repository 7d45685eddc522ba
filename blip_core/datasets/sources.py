"""Opening data sets: files, folders and patterns of them in any of the forms of `blip_core.datasets.forms`."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_core.datasets.entries import make_example
from blip_core.datasets.examples import Dataset, StoredExamples
from blip_core.datasets.forms import recognise
from blip_core.datasets.look import Item, Look, Source
from blip_core.datasets.objects import PictureStore, is_object, read_object
from blip_core.datasets.picture_finder import PictureFinder, Root
from blip_core.stores import StoreCache, StoreError, StorePath, is_address
from blip_core.tasks import get_task

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
FIELDS = {"sentence": "nlvr", "question": "vqa"}
"""The fields that tell what entries of the general forms are for; others are captions."""
ALL = "all"
"""In place of a split: entries of all splits."""


def open_dataset(
    paths: Any, task: str, image_root: Root = None, split: str | None = None, store_cache: StoreCache | None = None
) -> Dataset:
    """Open the examples of one or several files for a task.

    An entry that cannot be used ends nothing: it is in `problems` of the result. Pictures are looked for but not read.
    Examples lie in a temporary file, so that memory does not limit their number.

    Args:
        paths: A file or folder in one of the forms of docs/data.md, which is recognised by its content, or a list of
            those. A string may be a pattern, with `*` or braces ("train-{0000..0015}.tar"). It may also be a
            `Dataset`, `IterableDataset` or dictionary of them of Hugging Face's library, whose pictures are copied to a
            temporary file.
        task: A name in `blip_core.tasks.TASKS`.
        image_root: The folder of the pictures that a file names, unless given the file's own; pictures outside of it
            are refused. Without it absolute paths are taken as they are. It may be a dictionary of such folders by the
            entries' field `dataset`, as VQA v2 ({"vqa": ..., "vg": ...}) needs.
        split: Use the entries of this split alone; several are joined by "+", as "train+restval", and "all" uses all.
            A file that holds several splits needs it.
        store_cache: Where shards of stores are copied to as a whole; unless given, they are read in place.

    Returns:
        The examples in the order of the files, and what is wrong with the rest.

    Raises:
        ValueError: For an unknown task or split, a file of another kind, and if not one example can be used.
        OSError: For a path that is missing, a shard that is written to meanwhile, and if there is no room for the
            temporary file.

    Example:
        >>> entry = '{"image": "tests/data/emoji/1f98a.png", "caption": "a fox"}'
        >>> _ = Path("captions.jsonl").write_text(entry)
        >>> open_dataset("captions.jsonl", "caption")[0].texts
        ('a fox',)
    """
    dataset = read_dataset(paths, task, image_root, split, store_cache)
    if not dataset:
        tried = ", ".join(f"{name} (read as {form})" for name, form in dataset.forms.items()) or "no file at all"
        problems = dataset.problems
        reason = f"; the first of {len(problems)} problems: {': '.join(problems[0]).rstrip('.')}" if problems else ""
        raise ValueError(f"No example for {task} in {tried:.500}{reason}.")
    return dataset


def read_dataset(
    paths: Any, task: str, image_root: Root = None, split: str | None = None, store_cache: StoreCache | None = None
) -> Dataset:
    """As `open_dataset`, but that there may be no example."""
    row = get_task(task)
    sources = [paths] if is_object(paths) or isinstance(paths, str | os.PathLike) else list(paths)
    files = [file for source in sources for file in ([source] if is_object(source) else expand(source))]
    files = [StorePath(str(file), store_cache) if is_address(file) else file for file in files]
    names = names_of(files)
    examples, splits = StoredExamples(), _Splits(split)
    problems: list[tuple[str, str]] = []
    forms: dict[str, str] = {}
    for name, file in zip(names, files, strict=True):
        try:
            form, items, finder, must_choose = _open(file, files, image_root, examples)
            forms[name] = form
            for item in splits.choose(items, name if must_choose else ""):
                key = f"{name}:{item[0]}" if item[0] else name
                try:
                    if len(item) == 2:
                        raise ValueError(item[1])
                    _, pictures, fields = item
                    pictures = finder.find(fields) if pictures is None else pictures
                    examples.append(make_example(row, key, pictures, fields))
                except RecursionError:
                    problems.append((key, "is nested too deeply"))
                except ValueError as error:
                    problems.append((key, str(error)))
        except StoreError as error:  # a shard that cannot be had is not the end
            forms.setdefault(name, "nothing")
            problems.append((name, str(error)))
    examples.flush()
    splits.check()
    return Dataset(task, examples, problems, forms, splits.found)


def _open(
    file: Any, files: Sequence[Any], image_root: Root, examples: StoredExamples
) -> tuple[str, Iterable[Item], PictureFinder, bool]:
    """The form of a file, folder or object, its items, what finds its pictures, and whether a split must be chosen."""
    if is_object(file):
        examples.store = examples.store or PictureStore()
        return type(file).__name__, read_object(file, examples.store), PictureFinder(Path(), image_root), True
    look = Look(file, [other for other in files if not is_object(other)])
    form = recognise(look)
    finder = PictureFinder(file if look.is_folder else file.parent, image_root, form.anywhere)
    return form.name, form.read(look), finder, form.has_splits


def guess_task(path: Source) -> str:
    """Return the task that a file or folder is for: its form's, or what its first entry has the fields of.

    Raises as `open_dataset`.
    """
    look = Look(expand(path)[0])
    form = recognise(look)
    fields = next((item[2] for item in form.read(look) if len(item) == 3), {}) if not form.task else {}
    return form.task or next((task for name, task in FIELDS.items() if fields.get(name)), "caption")


class _Splits:
    """Choose the entries of a split, and count those of each."""

    def __init__(self, wanted: str | None):
        self.wanted = frozenset() if wanted in (None, ALL) else frozenset(str(wanted).split("+"))
        self.must_choose = wanted is None
        self.found: Counter[str] = Counter()

    def choose(self, items: Iterable[Item], name: str) -> Iterator[Item]:
        """Yield what is wanted; raises `ValueError` where a file of this name holds several and none was chosen."""
        here: Counter[str] = Counter()
        for item in items:
            split = item[2].get("split") if len(item) == 3 else None
            if isinstance(split, str) and split:
                here[split] += 1
            if not self.wanted or not isinstance(split, str) or split in self.wanted:
                yield item
        self.found += here
        if name and self.must_choose and len(here) > 1:
            raise ValueError(f"{name} holds the splits {_listed(here)}; choose a split (--split), or {ALL!r}.")

    def check(self) -> None:
        """Raise `ValueError` for a split that there is not."""
        if missing := sorted(self.wanted - self.found.keys()):
            there = f"it has {_listed(self.found)}" if self.found else "its entries name no split"
            raise ValueError(f"There is no split {missing[0]!r} in the data; {there}.")


def _listed(splits: Mapping[str, int]) -> str:
    return f"{', '.join(f'{split} ({count:,})' for split, count in splits.items()):.400}"


def names_of(files: Sequence[Any]) -> list[str]:
    """What places in files begin with: the name, behind the number of the file where several share it."""
    names = ["dataset" if is_object(file) else file.name for file in files]
    counts = Counter(names)
    return [f"{number}/{name}" if counts[name] > 1 else name for number, name in enumerate(names)]


def expand(source: Source) -> list[Any]:
    """The files, of a disk or a store, that a path or a pattern means. Raises `OSError` where there is none."""
    if is_address(source):
        return [path for name in _expand_braces(str(source)) for path in _in_store(name)]
    path = Path(source).expanduser()
    if path.exists():
        return [path]
    names = _expand_braces(str(path))
    files = [match for name in names for match in (sorted(glob.glob(name, recursive=True)) or [name])]
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        raise FileNotFoundError(f"{missing[0]} does not exist{'' if len(files) == 1 else f' (of {source})'}.")
    return [Path(file) for file in files]


def _in_store(address: str) -> list[Any]:
    """The paths that a pattern in a store means; one without `*` is asked for when it is read."""
    path = StorePath(address)
    parts = address.split("/")
    first = next((number for number, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        return [path]
    found = list(StorePath("/".join(parts[:first])).glob("/".join(parts[first:])))
    if not found:
        raise FileNotFoundError(f"{address} does not exist.")
    return found


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
