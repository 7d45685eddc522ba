"""Find the pictures that the entries of a data set name, and never one outside of its folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from blip_core.datasets.examples import Picture, VideoPicture
from blip_core.datasets.look import Source
from blip_core.processing.picture_files import SUFFIXES
from blip_core.processing.video import is_video_file
from blip_core.stores import file_names, is_address, to_path, walk

Root = Source | Mapping[str, Source] | None
DEPTH = 4  # folders below the root in which pictures are looked for
BESIDE = ("annotations", "annotation", "captions", "questions")
"""Folders of texts, in small letters: the pictures of a file in one lie in the folder around it."""
CHUNK = 2**20


class PictureFinder:
    """Find the pictures that the entries of a file name.

    Args:
        folder: The folder of the file.
        image_root: The folder of the pictures, unless given that of the file; or folders by the entries' `dataset`.
        anywhere: Look in the folders below, too, for a picture that is not where its name says.
    """

    def __init__(self, folder: Path, image_root: Root, anywhere: bool = False):
        if anywhere and folder.absolute().name.lower() in BESIDE:
            folder = folder.absolute().parent
        roots = image_root if isinstance(image_root, Mapping) else {"": image_root or folder}
        self.roots = {kind: os.path.join(_absolute(root), "") for kind, root in roots.items()}
        self.by_kind = isinstance(image_root, Mapping)
        self.allow_absolute = image_root is None
        self.anywhere = anywhere
        self.names = cache(file_names)  # lists a folder once: a network file system is slow to ask for each file
        self.below = cache(_paths_below)

    def find(self, entry: dict[str, Any]) -> tuple[Picture, ...]:
        """Return the pictures of an entry, in `image` or `images`.

        Raises `ValueError` for one that is not there, and for one that is there twice with different contents.
        """
        names = entry["images"] if "images" in entry else [entry.get("image")]
        choices = [name if isinstance(name, tuple) else (name,) for name in names] if isinstance(names, list) else [()]
        if not all(choices) or not all(isinstance(name, str) and name for choice in choices for name in choice):
            raise ValueError(f"image must be the path of a picture, images a list of them, got {names!r:.80}")
        kind = entry.get("dataset") if self.by_kind else ""
        if not isinstance(kind, str) or kind not in self.roots:
            raise ValueError(f"dataset must be one of {', '.join(self.roots)}, for which image_root has a folder")
        paths = (self._find(choice, self.roots[kind]) for choice in choices)
        return tuple(VideoPicture(path) if is_video_file(path) else Picture(path) for path in paths)

    def _find(self, names: Sequence[str], root: str) -> str:
        """The path of a picture in `root`, which ends in a slash, under one of its names."""
        paths = [self._path(name, root) for name in names]
        for path in paths:
            folder, base = os.path.split(path)
            names_there = self.names(folder)
            if names_there is None or base in names_there:  # None: it is seen when it is read
                return path
        if self.anywhere:
            for path in paths:
                if found := self._below(path, root):
                    return found
        where = f" in {root} or the folders below" if self.anywhere else ""
        raise ValueError(f"the picture {paths[0]!r:.200} does not exist{where}")

    def _path(self, name: str, root: str) -> str:
        store, found, rest = root.partition("://") if is_address(root) else ("", "", root)
        path = f"{store}{found}{os.path.normpath(os.path.join(rest, name))}"
        if is_address(name) and self.allow_absolute and not name.startswith("http"):
            return name
        on_disk = os.path.isabs(name) and not is_address(root)
        if not path.startswith(root) and not (self.allow_absolute and on_disk):
            raise ValueError(f"the picture {name!r:.200} lies outside of {root}; name a folder that holds all of them")
        return path

    def _below(self, path: str, root: str) -> str | None:
        """The picture in a folder below whose path ends as `path` does behind `root`; it may lack its suffix."""
        wanted = os.sep + path.removeprefix(root)
        found = [
            other
            for other in self.below(root).get(os.path.basename(path), ())
            if other.endswith(wanted) or os.path.splitext(other)[0].endswith(wanted)
        ]
        for other in found[1:]:
            if not _same(found[0], other):
                raise ValueError(
                    f"the picture {wanted[1:]!r:.200} is there twice with different contents, as {found[0]} and "
                    f"{other}; give the folder of the right one as image root"
                )
        return found[0] if found else None


def _absolute(root: Source) -> str:
    return str(root) if is_address(root) else os.path.abspath(os.path.expanduser(root))


def _paths_below(root: str) -> Mapping[str, Sequence[str]]:
    """The files in a folder and those below, but hidden ones, by name; pictures also by name without suffix."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for parent, folders, files in walk(root, links=True):
        deep = os.path.relpath(parent, root).count(os.sep) + (parent.rstrip(os.sep) != root.rstrip(os.sep))
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep < DEPTH else []
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            for key in {name, stem} if suffix.lower() in SUFFIXES else {name}:
                found[key].append(os.path.join(parent, name))
    return found


def _same(one: str, other: str) -> bool:
    """Say whether two files have the same contents."""
    paths = to_path(one), to_path(other)
    if paths[0].stat().st_size != paths[1].stat().st_size:
        return False
    with paths[0].open("rb") as first, paths[1].open("rb") as second:
        while part := first.read(CHUNK):
            if part != second.read(CHUNK):
                return False
    return True
