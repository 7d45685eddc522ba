"""Data sets of Hugging Face's library as objects: their rows are read once, and their pictures copied to a file."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from PIL import Image

from blip_core.datasets.examples import Picture
from blip_core.datasets.look import Item, moved
from blip_core.datasets.parquet import CAPTIONS, FIELDS, IMAGES


def is_object(source: Any) -> bool:
    """Say whether a source is a data set, or a dictionary of them by split, and not the path of one."""
    if isinstance(source, Mapping):
        return bool(source) and all(map(is_object, source.values()))
    return (
        not isinstance(source, str | bytes | os.PathLike)
        and hasattr(source, "__iter__")
        and hasattr(source, "features")
    )


class PictureStore:
    """Bytes of pictures behind each other in a temporary file, which is gone with this object."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="blip-pictures-", buffering=0)  # noqa: SIM115
        self._end = 0

    def add(self, name: str, data: bytes) -> Picture:
        """Write a picture. Raises `OSError` on a full disk."""
        self._file.write(data)
        self._end += len(data)
        return Picture(self._file.name, name, self._end - len(data), len(data))


def read_object(source: Any, store: PictureStore) -> Iterator[Item]:
    """Yield the rows of a data set, or of all in a dictionary; the pictures go to `store`."""
    if isinstance(source, Mapping):
        for split, part in source.items():
            yield from moved(read_object(part, store), f"{split}/", partial(_in_split, split))
        return
    split = str(source.split) if getattr(source, "split", None) is not None else None
    for number, row in enumerate(_undecoded(source)):
        place = str(number)
        image = next((name for name in IMAGES if name in row), "")
        captions = next((name for name in CAPTIONS if name in row), "")
        fields = {name: row[name] for name in FIELDS if name in row}
        fields |= {"caption": row.get(captions), "split": fields.get("split", split)}
        if not image and "images" not in row:
            raise ValueError(f"The data set must have a column named image, got {list(row)!r:.200}.")
        try:
            values = row["images"] if "images" in row else [row[image]]
            if all(isinstance(value, str) for value in values):
                yield place, None, {**fields, **({} if "images" in row else {"image": row[image]})}
            else:
                yield place, tuple(store.add(f"{place}.{at}", _bytes(one)) for at, one in enumerate(values)), fields
        except (TypeError, ValueError) as error:
            yield place, str(error)


def _in_split(split: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "split": split}


def _undecoded(source: Any) -> Any:
    """The data set with pictures as the bytes of their files, where it says which columns are pictures."""
    for name, feature in (source.features or {}).items():
        if type(feature).__name__ == "Image" and hasattr(feature, "decode"):
            source = source.cast_column(name, type(feature)(decode=False))
    return source


def _bytes(value: Any) -> bytes:
    """The encoded bytes of a picture. Raises `ValueError` where it is none, `OSError` where its file is missing."""
    if isinstance(value, dict) and isinstance(value.get("path"), str) and value.get("bytes") is None:
        return Picture(value["path"]).read()
    value = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return file.getvalue()
    if not isinstance(value, bytes):
        raise ValueError(f"image must be a picture, got {value!r:.80}")
    return value
