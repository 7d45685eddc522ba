"""Tar shards in WebDataset's form, read in place: members with the same base name are an example.

The headers of a shard are read once, to find where each member lies; nothing is extracted. Headers are not trusted:
links and devices are ignored, and a member must lie inside the file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

from blip_core.datasets.entries import sidecar_entry
from blip_core.datasets.examples import MAX_PICTURE_BYTES, Picture, cache_of, check_version
from blip_core.datasets.look import Item
from blip_core.datasets.spool import Spool, group
from blip_core.files import file_version
from blip_core.processing.picture_files import SUFFIXES

MAX_TEXT_BYTES = 2**20
MAX_HEADER_BYTES = 2**20  # a block of a header is 512 bytes; a long name or a set of attributes can be longer


class _Headers:
    """A file for `tarfile`, which by itself would read a header of any size that the header states."""

    def __init__(self, file: IO[bytes]):
        self.tell, self.seek, self.file = file.tell, file.seek, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header says that it has {size} bytes")
        return self.file.read(size)


def read_shard(path: Path) -> Iterator[Item]:
    """Yield the examples of a shard as (base name, pictures, fields), and its problems as (name, reason).

    A member's base name ends at the first dot of its last path component; what follows tells its kind: a picture's
    suffix, .txt (a caption on each line) or .json (the fields). Other members are ignored. Of a shard that is cut off
    or damaged, what lies before is used. Raises `ChangedError` where it is written to meanwhile.
    """
    version = file_version(path)
    pictures, texts = Spool(), Spool()  # key, name or suffix, offset and size of each
    with path.open("rb") as file:
        for name, offset, size in _members(file):
            if isinstance(offset, str):
                yield name, offset
                continue
            folder, base = os.path.split(name)
            base, _, suffix = base.partition(".")
            key, suffix = os.path.join(folder, base), f".{suffix.lower()}"
            is_picture = suffix.endswith(SUFFIXES)
            if base and is_picture and size <= MAX_PICTURE_BYTES:
                pictures.append((key, name, offset, size))
            elif base and suffix in (".txt", ".json") and size <= MAX_TEXT_BYTES:
                texts.append((key, suffix, offset, size))
            elif base and (is_picture or suffix in (".txt", ".json")):
                yield name, f"is of {size} bytes, more than a picture or text may have"
        order, starts = group(row[0] for row in chain(pictures, texts))
        for start, end in pairwise(starts):
            images: list[Picture] = []
            sidecars: dict[str, bytes] = {}
            for number in order[start:end]:
                if number < len(pictures):
                    key, name, offset, size = pictures[number]
                    images.append(Picture(str(path), name, offset, size, version, cache_of(path)))
                else:
                    key, suffix, offset, size = texts[number - len(pictures)]
                    file.seek(offset)
                    sidecars[suffix] = file.read(size)
            try:
                if not images:
                    raise ValueError("has no picture beside it")
                yield key, tuple(sorted(images, key=lambda picture: picture.member)), sidecar_entry(sidecars)
            except ValueError as error:
                yield key, str(error)
    check_version(path, version)


def _members(file: IO[bytes]) -> Iterator[tuple[str, int | str, int]]:
    """Yield name, offset and size of each regular file; for a problem, a name and the reason instead of the offset."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    last = -1
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:", errorlevel=2) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members = []  # tarfile would keep all in memory
                if member.offset <= last:
                    raise tarfile.ReadError("a header leads back")
                last = member.offset
                if not member.isreg() or member.issparse():
                    continue
                if member.size < 0 or member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name!r:.200} is cut off")
                position = file.tell()
                yield member.name, member.offset_data, member.size
                file.seek(position)
            file.seek(tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):  # an archive ends with empty blocks, or at least with the file
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except Exception as error:  # tarfile raises errors of many types for invalid headers
        yield "", f"the shard is damaged; what lies before is used ({error})", 0
