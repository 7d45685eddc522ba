"""Files where they live: on a disk, or in a store that fsspec reads."""

from blip_core.stores.paths import StoreError, StorePath, file_names, is_address, on_disk, to_path, walk

__all__ = ["StoreError", "StorePath", "file_names", "is_address", "on_disk", "to_path", "walk"]
