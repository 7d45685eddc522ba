"""Whole copies of files of stores in a folder of this machine, up to a size that they have together."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GB = 10**9
SIZE = 100 * GB
OLD = 3600.0
"""Seconds after which a copy that is not whole counts as left by a process that was killed."""
OURS = re.compile(r"\.?[0-9a-f]{32}(\..*)?")
"""The names of copies: what else lies in the folder is not theirs to remove."""
_LOCK = threading.Lock()
"""Held while a file is copied, so that threads of one process do not copy the same."""


@dataclass(frozen=True)
class StoreCache:
    """Copies of files of stores; those that were not read for the longest time are removed for new ones.

    Processes may share a folder, and other files may lie in it, which are left alone. A copy has a name that follows
    from the address and the version of the file, so that an old one is never read for a new one.

    Args:
        folder: Where the copies lie.
        size: How many bytes they may have together.
    """

    folder: str
    size: int = SIZE

    def copy(self, path: Any, version: tuple[int, int], fetch: bool = True) -> Path | None:
        """Return the copy of a version of a `StorePath`, fetching it where it is not there and `fetch` is true.

        Returns None for a file that is larger than the cache, and where the disk has no room. Raises `OSError` where
        the store does not give it.
        """
        digest = hashlib.blake2b(f"{path.address} {version}".encode("utf-8", "surrogatepass"), digest_size=16)
        place = Path(self.folder) / f"{digest.hexdigest()}{path.suffix[:10]}"
        if self._touch(place):
            return place
        if not fetch or version[0] > self.size:
            return None
        with _LOCK:
            if self._touch(place):
                return place
            os.makedirs(self.folder, exist_ok=True)
            self._make_room(version[0])
            if (free := shutil.disk_usage(self.folder).free) < version[0]:
                warnings.warn(f"{self.folder} has room for {free:,} bytes; shards are read in place.", stacklevel=2)
                return None
            temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
            try:
                path.fetch(temporary, version)
                os.replace(temporary, place)
            finally:
                temporary.unlink(missing_ok=True)
            return place

    @staticmethod
    def _touch(place: Path) -> bool:
        """Say whether a copy is there, and note that it is read now."""
        with suppress(OSError):
            os.utime(place)
            return True
        return False

    def _make_room(self, size: int) -> None:
        """Remove copies until there is room for `size` bytes."""
        found = []
        for entry in os.scandir(self.folder):
            if not OURS.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # another process has removed it
                stat = entry.stat()
                if not entry.name.endswith(".tmp") or time.time() - stat.st_mtime > OLD:
                    found.append((stat.st_mtime, stat.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, one, name in sorted(found):
            if total + size <= self.size:
                break
            with suppress(FileNotFoundError):
                os.unlink(name)
            total -= one
