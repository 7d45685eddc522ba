"""Folders that Hugging Face's `save_to_disk` writes, read by pyarrow alone, and loading scripts, which are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip_core.datasets.examples import Picture, check_version
from blip_core.datasets.look import Item, Look
from blip_core.datasets.parquet import CAPTIONS, FIELDS, IMAGES, OPEN, import_pyarrow
from blip_core.files import Version, file_version, read_json
from blip_core.stores import is_address

BUILDERS = (b"GeneratorBasedBuilder", b"ArrowBasedBuilder", b"BuilderConfig", b"DatasetBuilder")
SCRIPT_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ArrowPicture(Picture):
    """A picture in row `row` of record batch `batch`; `column` is the column of pictures."""

    column: str = ""
    batch: int = 0
    row: int = 0

    def _read(self) -> bytes:
        assert self.version
        try:
            value = _batches(self.path, self.version)[self.batch].column(self.column)[self.row].as_py()
            data: bytes = value["bytes"] if isinstance(value, dict) else value
        except Exception as error:  # pyarrow raises errors of many types for invalid files
            check_version(self.path, self.version)
            raise OSError(f"{self.name} cannot be read: {error}") from error
        return data


def is_saved(look: Look) -> bool:
    """A folder with the state of a saved data set, or with the list of several."""
    return {"state.json", "dataset_info.json"} <= look.names or "dataset_dict.json" in look.names


def read_saved(look: Look) -> Iterator[Item]:
    """Yield the rows of all Arrow files, split by split."""
    if is_address(look.path):
        raise ValueError(f"{look.path} is a saved data set, which is mapped from disks alone; copy it to one.")
    if "dataset_dict.json" not in look.names:
        yield from _rows(look.path, "", None)
        return
    splits = read_json(look.path / "dataset_dict.json").get("splits")
    for split in splits if isinstance(splits, list) else []:
        yield from _rows(look.path / _plain(split), f"{split}/", split)


def _rows(folder: Path, begin: str, split: str | None) -> Iterator[Item]:
    state = read_json(folder / "state.json")
    files = state.get("_data_files")
    split = split or (state["_split"] if isinstance(state.get("_split"), str) else None)
    number = 0
    for file in files if isinstance(files, list) else []:
        path = folder / _plain(file.get("filename") if isinstance(file, dict) else file)
        version = file_version(path)
        try:
            for count, batch in enumerate(_batches(str(path), version)):
                for row, (pictures, fields) in enumerate(_entries(batch, path, count, version, number)):
                    yield f"{begin}{number + row}", pictures, {**fields, "split": split}
                number += len(batch)
        except _NoPictures as error:
            raise ValueError(f"{path} {error}") from None
        except Exception as error:
            yield f"{begin}{path.name}", f"the file is damaged; what lies before is used ({error})"
        check_version(path, version)


class _NoPictures(ValueError):
    pass


def _entries(
    batch: Any, path: Path, count: int, version: Version, first: int
) -> Iterator[tuple[tuple[Picture, ...] | None, dict[str, Any]]]:
    names = batch.schema.names
    image = next((name for name in IMAGES if name in names), "")
    if not image and "images" not in names:
        raise _NoPictures(f"must have a column named image, got {names!r:.200}")
    captions = next((name for name in CAPTIONS if name in names), "")
    texts = batch.select([name for name in names if name in (*FIELDS, captions)])
    texts.validate(full=True)
    if image:
        batch.select([image]).validate(full=True)
    for row in range(len(batch)):
        fields = {name: texts.column(name)[row].as_py() for name in texts.schema.names}
        fields["caption"] = fields.get(captions)
        value = batch.column(image)[row] if image else None
        has_bytes, named = _stored(value)
        if has_bytes:
            yield (ArrowPicture(str(path), str(first + row), 0, 0, version, None, image, count, row),), fields
        else:
            yield None, {**fields, "image": named} if image else fields


def _stored(value: Any) -> tuple[bool, Any]:
    """Whether a cell has the bytes of a picture, and the path that it has, if any; the bytes are not copied."""
    if value is None or not value.is_valid:
        return False, None
    from pyarrow import types as kinds

    if kinds.is_struct(value.type):
        names = [value.type.field(number).name for number in range(value.type.num_fields)]
        path = value["path"].as_py() if "path" in names else None
        return "bytes" in names and value["bytes"].is_valid, path
    return not (kinds.is_string(value.type) or kinds.is_large_string(value.type)), value.as_py()


@lru_cache(maxsize=OPEN)
def _batches(path: str, version: Version) -> list[Any]:
    """The record batches of a file, which stay on the disk: they are mapped, not read."""
    import_pyarrow()
    import pyarrow as pa

    with pa.memory_map(path) as file, pa.ipc.open_stream(file) as stream:
        return list(stream)


def _plain(name: Any) -> str:
    """A name in the folder. Raises `ValueError` for any path that could lead out of it."""
    if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name or "\0" in name:
        raise ValueError(f"a saved data set names its files and splits plainly, got {name!r:.80}; it is not read.")
    return name


def is_script(look: Look) -> bool:
    """A Python file that builds a data set, or a folder with one and without anything that is one."""
    if look.suffix == ".py" and not look.is_folder:
        return True
    scripts = [name for name in sorted(look.names) if name.endswith(".py")]
    others = [name for name in look.names if not name.endswith((".py", ".md", ".json", ".zip", ".gz", ".txt"))]
    return all(name.startswith(".") for name in others) and any(_builds(look.path / name) for name in scripts)


def _builds(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(SCRIPT_BYTES)
    return any(word in start for word in BUILDERS)


def read_script(look: Look) -> Iterator[Item]:
    """Refuse it."""
    raise ValueError(
        f"{look.path} is a loading script of the datasets library, and code in data is never run; load it yourself if "
        "you trust it, call save_to_disk, and name that folder."
    )
