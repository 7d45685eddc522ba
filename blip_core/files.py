"""Small files read and written with care: JSON that is checked, writes that are atomic."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from blip_core.stores import StorePath, to_path

MAX_JSON_BYTES = 100 * 2**20  # a tokenizer.json of a large vocabulary is about 1 MB, a shard index less than 10 MB

MAX_JSON_DEPTH = 100
"""Objects and arrays within each other; settings of BLIP have fewer than ten."""

TEMPORARY = ".*.tmp"
"""Pattern of files that are being written, or that a killed process left."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors for a full disk, an exhausted quota, and a file that is too large."""

Version = tuple[int, int]
"""The size of a file in bytes and its modification time in nanoseconds."""


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read its bytes. Raises `OSError` for a pipe or device, which may never end, and for a folder."""
    place = to_path(path)
    if isinstance(place, StorePath):
        return place.open()
    if not stat.S_ISREG(os.stat(path).st_mode):
        kind = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise OSError(f"{os.fspath(path)} is no regular file, but {kind}")
    return open(path, "rb")


def cache_folder() -> Path:
    """Return where what can be made again is kept: `blip` in `$XDG_CACHE_HOME`, else in `~/.cache`.

    On Windows `%LOCALAPPDATA%` takes the place of the latter.
    """
    windows = os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
    return Path(os.environ.get("XDG_CACHE_HOME") or windows or "~/.cache").expanduser() / "blip"


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object. Raises `OSError` where the file is missing and `ValueError` where it is not an object."""
    place = to_path(path)
    if place.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {MAX_JSON_BYTES} bytes, more than any BLIP settings file.")
    try:
        values = json.loads(place.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error}); restore the file or download it again.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    if is_deeper(values, MAX_JSON_DEPTH):
        raise ValueError(
            f"{path} is nested more than {MAX_JSON_DEPTH} deep, which no BLIP file of settings is; restore the file or "
            "download it again."
        )
    return values


def is_deeper(values: Any, depth: int) -> bool:
    """Say whether objects and arrays lie more than `depth` within each other: copying them would fail."""
    level = [values]
    while level and depth >= 0:
        depth -= 1
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for part in parts for value in part if isinstance(value, dict | list)]
    return bool(level)


def write_json(path: str | Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON object with sorted keys, or an array, atomically; other processes may write the same."""
    with shared_path(to_path(path)) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines, atomically; other processes may write the same."""
    with shared_path(path) as temporary:
        temporary.write_bytes(b"".join(encode_line(line) + b"\n" for line in lines))


def read_lines(path: Path, remedy: str = "remove it") -> list[dict[str, Any]]:
    """Read a file of JSON lines. Raises `ValueError` for a damaged one, naming the `remedy`."""
    try:
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy} and run again to rebuild it.") from None


def encode_line(line: Mapping[str, Any]) -> bytes:
    """Encode a line of JSON; bytes of a file name that are not UTF-8 become `\\udc..`, which JSON reads back."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")


def file_version(path: str | os.PathLike[str]) -> Version:
    """Return the version of a file. Raises `OSError` where it is missing."""
    found = to_path(path).stat()
    return found.st_size, found.st_mtime_ns


def differences(old: Mapping[str, Any], new: Mapping[str, Any], without: Iterable[str] = ()) -> list[str]:
    """Describe each fact that differs between two runs, except those named in `without`."""
    return [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted((old.keys() | new.keys()) - set(without))
        if old.get(name) != new.get(name)
    ]


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` to write to first. It matches `TEMPORARY` and fits wherever the name of `path` does.

    File systems limit names to 255 bytes or less, so only the first 60 bytes are kept.
    """
    begin = os.fsencode(path.name)[:60].decode("utf-8", "ignore")
    return path.with_name(f".{begin}.{secrets.token_hex(4)}.tmp")


@contextmanager
def errors_named(path: str | Path) -> Iterator[None]:
    """Name the file in errors of the system that name none, as those of writing to an open file do: a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside `path` to write; on success it replaces `path` in one step, else it is removed.

    What goes to a store is written to a temporary file of the disk, and appears in the store when all of it is there.
    """
    place = to_path(path)
    if isinstance(place, StorePath):
        with tempfile.TemporaryDirectory(prefix="blip-") as folder:
            (Path(folder) / "file").touch()
            yield Path(folder) / "file"
            place.put(Path(folder) / "file")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(place)
    # The system applies the umask. Reading it in Python would change it for all threads for a moment.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with errors_named(path):
            yield temporary
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_disk(path: str | Path) -> None:
    """Flush a file, or a folder and all files in it, to the disk, so that they survive a loss of power."""
    path = Path(path)
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def shared_path(path: Path) -> Iterator[Path]:
    """`atomic_path` where other processes write the same: one that has finished may remove our temporary file."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except FileNotFoundError:
        if not path.exists():
            raise
