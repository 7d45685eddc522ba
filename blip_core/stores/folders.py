"""Folders of a store, such as those of models, copied to this machine."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from blip_core.stores.paths import STORES, StorePath


def fetch_folder(address: str, patterns: Sequence[str]) -> Path:
    """Copy those files of a folder in a store whose names fit a pattern, unless they are there in these versions.

    The copies lie in `blip/models` of `$XDG_CACHE_HOME`, else of `~/.cache` (`%LOCALAPPDATA%` on Windows).

    Raises:
        OSError: Where the store does not give them, or there is no such folder.
        ValueError: For a store that cannot list a folder.
    """
    path = StorePath(address)
    if not STORES[path.scheme].lists:
        raise ValueError(f"{address} is on the web, which cannot say what files a model has; download its folder.")
    files = {one.name: one for one in path.iterdir()}
    versions = {name: one.version() for name, one in files.items() if one.is_file()}
    if not versions:
        raise FileNotFoundError(f"{address} is no folder with a model; give the folder that holds its config.json.")
    digest = hashlib.blake2b(repr((path.address, sorted(versions.items()))).encode(), digest_size=16).hexdigest()
    windows = os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or windows or "~/.cache").expanduser()
    folder = cache / "blip" / "models" / digest
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in versions.items():
        place = folder / name
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) and not place.exists():
            temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
            try:
                files[name].fetch(temporary, version)
                os.replace(temporary, place)
            finally:
                temporary.unlink(missing_ok=True)
    return folder
