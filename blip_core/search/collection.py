"""List the files of a folder that can be searched, and the state of each."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass

from blip_core.files import file_version
from blip_core.processing.picture_files import is_picture_name
from blip_core.processing.picture_folders import files_inside, tell_passed
from blip_core.processing.video import frame_files, is_video_file


@dataclass(frozen=True)
class Collection:
    """The pictures and videos of a folder.

    Attributes:
        folder: The folder.
        stamps: For each name, relative to the folder, a string that changes when the file is written.
        problems: The subfolders that cannot be listed, and why.
    """

    folder: str
    stamps: dict[str, str]
    problems: dict[str, str]

    @classmethod
    def find(cls, folder: str | os.PathLike[str], *, recursive: bool = False, videos: bool = False) -> Collection:
        """List a folder.

        Args:
            folder: The folder.
            recursive: List subfolders as well.
            videos: List videos as well: files and, unless `recursive`, folders of frames.

        Raises:
            ValueError: For a folder with nothing to search in.
        """

        def wanted(name: str) -> bool:
            return is_picture_name(name) or (videos and is_video_file(name) and not name.startswith("."))

        folder = os.fspath(folder)
        problems: dict[str, str] = {}
        passed: Counter[str] = Counter()
        found = {p: stamp(p) for p in files_inside(folder, recursive, wanted, problems=problems, passed=passed)}
        tell_passed(passed)
        if videos and not recursive:
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                frames = frame_files(entry.path) if entry.is_dir() and not entry.name.startswith(".") else []
                if frames:
                    state = "\n".join(f"{os.path.basename(path)} {stamp(path)}" for path in frames)
                    found[entry.path] = hashlib.blake2b(os.fsencode(state), digest_size=16).hexdigest()
        if not found:
            hint = "" if recursive else "; --recursive looks in the folders below too"
            raise ValueError(f"{folder}: no pictures in this folder{hint}")
        return cls(folder, {os.path.relpath(path, folder): state for path, state in found.items()}, problems)


def stamp(path: str) -> str:
    """Return a string that changes when a file is written: its size in bytes and time in nanoseconds."""
    try:
        size, time = file_version(path)
    except OSError:  # deleted, or a dangling link: reading it reports the error
        return "missing"
    return f"{size} {time}"
