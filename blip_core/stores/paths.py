"""Paths of files in stores, such as s3://bucket/folder/file, with the part of `pathlib.Path` that reading data uses.

What a store answers is not kept, so that a change is seen. Broken connections and errors of the server are tried again,
each time after twice the wait; what is missing or forbidden is not.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import io
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from blip_core.stores.cache import StoreCache

ATTEMPTS = 5
WAIT = 0.5  # seconds before the second attempt
BLOCK = 2**20  # bytes read at once
MARKS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "blob_id", "LastModified", "last_modified", "mtime")
"""What the stores call facts that change with the contents of a file."""
Value = TypeVar("Value")


class StoreError(OSError):
    """What cannot be had from a store."""


class MissingError(StoreError, FileNotFoundError):
    """What is not in a store."""


@dataclass(frozen=True)
class Store:
    """A kind of store: the module that fsspec reads it by, the extra that installs it, and what it is opened with.

    `lists` tells whether it can say what is in a folder.
    """

    module: str
    extra: str
    lists: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


_S3 = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}}
_GS, _AZURE, _WEB = Store("gcsfs", "gs"), Store("adlfs", "az"), Store("aiohttp", "https", lists=False)
STORES = {
    "s3": Store("s3fs", "s3", options=_S3),
    "gs": _GS,
    "gcs": _GS,
    "az": _AZURE,
    "abfs": _AZURE,
    "hf": Store("huggingface_hub", ""),
    "https": _WEB,
    "http": _WEB,
}
"""By the beginning of an address."""


def is_address(path: Any) -> bool:
    """Say whether a path is an address in a store."""
    text = path if isinstance(path, str) else str(path) if isinstance(path, StorePath) else ""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme in STORES


def to_path(source: Any) -> Any:
    """Return a `StorePath` for an address, else a `Path`."""
    if isinstance(source, StorePath | Path):
        return source
    return StorePath(source) if is_address(source) else Path(source)


def on_disk(path: Any) -> Path:
    """Return the path of what is written to a disk. Raises `ValueError` for an address in a store."""
    if is_address(path):
        raise ValueError(f"{path} lies in a store, and this is written to disks alone; name a folder or file of one.")
    return Path(path)


class StorePath(os.PathLike[str]):
    """The address of a file or folder in a store; with a cache, files are copied to it when they are opened."""

    def __init__(self, address: str, cache: StoreCache | None = None):
        self.address, self.cache = address.rstrip("/"), cache
        self.scheme, _, self._rest = self.address.partition("://")

    def __fspath__(self) -> str:
        return self.address

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"StorePath({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(f"{self.address}/{name}", self.cache) if name else self

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self._rest)

    @property
    def suffix(self) -> str:
        """The suffix of the name."""
        return posixpath.splitext(self.name)[1]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> StorePath:
        """The folder around it."""
        return StorePath(f"{self.scheme}://{posixpath.dirname(self._rest)}", self.cache)

    def absolute(self) -> StorePath:
        """Itself."""
        return self

    def expanduser(self) -> StorePath:
        """Itself."""
        return self

    def info(self) -> dict[str, Any]:
        """What the store says of it. Raises `OSError`, `FileNotFoundError` where it is missing."""
        found: dict[str, Any] = self._ask(lambda system: system.info(self.address))
        return found

    def is_dir(self) -> bool:
        """Say whether there is such a folder."""
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Say whether there is such a file."""
        return self._kind() == "file"

    def exists(self) -> bool:
        """Say whether there is a file or folder."""
        return bool(self._kind())

    def _kind(self) -> str:
        try:
            return str(self.info()["type"])
        except FileNotFoundError:
            return ""

    def stat(self) -> StoreStat:
        """The size, and in place of the time of the last change a number that changes with the contents."""
        info = self.info()
        mark = repr([info.get(name) for name in MARKS]).encode()
        return StoreStat(int(info.get("size") or 0), int.from_bytes(hashlib.blake2b(mark, digest_size=6).digest()))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file, or its copy in the cache, to be read block by block. Raises `OSError`."""
        while self.cache is not None and (copy := self.cache.copy(self, self.version())):
            with suppress(FileNotFoundError):  # another process has just removed it
                return open(copy, "rb")
        return io.BufferedReader(_Blocks(self), BLOCK)

    def version(self) -> tuple[int, int]:
        """Return what `file_version` returns."""
        found = self.stat()
        return found.st_size, found.st_mtime_ns

    def fetch(self, place: Path, version: tuple[int, int]) -> None:
        """Copy a version of the file to a place on the disk. Raises `OSError`, also where it is another one by now."""

        def get(system: Any) -> None:
            system.get_file(self.address, str(place))
            if place.stat().st_size != version[0]:
                raise ConnectionError(f"{place.stat().st_size} of {version[0]} bytes came")

        self._ask(get)
        if self.version() != version:
            raise StoreError(f"{self.address} changed while it was read; begin again when nothing writes to it.")

    def read_bytes(self) -> bytes:
        """Return all of it. Raises `OSError`."""
        return self.read_part(0, self.stat().st_size)

    def read_part(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on. Raises `OSError`, also where there are fewer."""

        def read(system: Any) -> bytes:
            data: bytes = system.cat_file(self.address, start=offset, end=offset + size) if size else b""
            if len(data) != size:
                raise ConnectionError(f"{len(data)} of {size} bytes came")
            return data

        return self._ask(read)

    def put(self, file: Path) -> None:
        """Write a file of the disk to it, which appears as a whole. Raises `OSError`."""
        self._ask(lambda system: system.put_file(str(file), self.address), "written")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file. Raises `OSError`, where it is missing unless told otherwise."""
        try:
            self._ask(lambda system: system.rm_file(self.address), "removed")
        except MissingError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Do nothing: a store has no folders but those of its files."""

    def rglob(self, pattern: str) -> Iterator[StorePath]:
        """Yield the files in the folder and those below whose names fit a pattern."""
        for parent, _, names in walk(self.address):
            fitting = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            yield from (StorePath(f"{parent}/{name}", self.cache) for name in fitting)

    def iterdir(self) -> Iterator[StorePath]:
        """Yield what is in the folder, in the order of names. Raises `OSError`."""
        found = self._ask(lambda system: system.ls(self.address, detail=False, refresh=True))
        names = sorted({posixpath.basename(str(name).rstrip("/")) for name in found} - {""})
        return (self / name for name in names if str(self / name) != self.address)

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """Yield the files whose paths behind this one fit a pattern, in order; `*` stands in several parts, too."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir() if any(letter in first for letter in "*?[") else iter([self / first]):
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else iter([path])

    def _ask(self, call: Callable[[Any], Value], done: str = "read") -> Value:
        """Call with the file system of the store until it answers, at most `ATTEMPTS` times; `done` is for messages."""
        for attempt in range(ATTEMPTS):
            try:
                return call(_system(self.scheme))
            except FileNotFoundError:
                raise MissingError(f"{self.address} does not exist.") from None
            except PermissionError as error:
                module = STORES[self.scheme].module
                message = f"{self.address} may not be {done} ({error}); give credentials as {module} takes them."
                raise StoreError(message) from None
            except ValueError:
                raise
            except Exception as error:  # stores raise errors of many types for broken connections
                last = error
            if attempt + 1 < ATTEMPTS:
                time.sleep(WAIT * 2**attempt)
        raise StoreError(f"{self.address} cannot be {done}; {ATTEMPTS} attempts ended with: {last!r:.300}") from last


@dataclass(frozen=True)
class StoreStat:
    """The size of a file in bytes, and a number for its contents."""

    st_size: int
    st_mtime_ns: int


class _Blocks(io.RawIOBase):
    """The bytes of a file in a store, at a place that can be set."""

    def __init__(self, path: StorePath):
        self.path, self.size, self.at = path, path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self.path.read_part(self.at, max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _system(scheme: str) -> Any:
    """The file system of a store, which fsspec keeps for each process. Raises `ValueError` where its library lacks."""
    store = STORES[scheme]
    try:
        importlib.import_module(store.module)
        import fsspec
    except ImportError:
        extra = f'pip install "blip-duo[{store.extra}]", or {store.module}' if store.extra else "pip install fsspec"
        raise ValueError(f"{scheme}:// needs {store.module} and fsspec, which are not installed; {extra}.") from None
    return fsspec.filesystem(scheme, use_listings_cache=False, **store.options)


def file_names(folder: str) -> frozenset[str] | None:
    """The names in a folder, none where there is none; None where a store cannot tell. Raises `OSError` of stores."""
    if not is_address(folder):
        try:
            return frozenset(os.listdir(folder))
        except (OSError, ValueError):  # the latter for a zero byte
            return frozenset()
    path = StorePath(folder)
    if not STORES[path.scheme].lists:
        return None
    try:
        return frozenset(one.name for one in path.iterdir())
    except FileNotFoundError:
        return frozenset()


def walk(
    folder: str, links: bool = False, onerror: Callable[[OSError], Any] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, also for folders in stores, which raise; `links` and `onerror` are for those of a disk."""
    if not is_address(folder):
        yield from os.walk(folder, onerror=onerror, followlinks=links)
        return
    path = StorePath(folder)
    found = path._ask(lambda system: system.ls(path.address, detail=True, refresh=True))
    rows = {posixpath.basename(str(row["name"]).rstrip("/")): row["type"] == "directory" for row in found}
    names = sorted(name for name in rows if name and name != path.name)
    folders = [name for name in names if rows[name]]
    yield path.address, folders, [name for name in names if not rows[name]]
    for name in folders:
        yield from walk(f"{path.address}/{name}")
