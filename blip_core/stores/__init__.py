"""Files where they live: on a disk, or in a store that fsspec reads."""

from blip_core.stores.cache import StoreCache
from blip_core.stores.folders import fetch_folder
from blip_core.stores.paths import StoreError, StorePath, file_names, is_address, on_disk, to_path, walk

__all__ = [
    "StoreCache",
    "StoreError",
    "StorePath",
    "fetch_folder",
    "file_names",
    "is_address",
    "on_disk",
    "to_path",
    "walk",
]
