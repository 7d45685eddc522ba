"""Output formats of kept captions: JSON lines, Parquet, WebDataset tar; training reads all three.

A shard's bytes depend on its lines and pictures alone: they hold no times, owners or names of machines.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from blip_core import files
from blip_core.capfilt.items import Item, Line
from blip_core.datasets.examples import ChangedError, Picture
from blip_core.datasets.parquet import for_arrow, import_pyarrow
from blip_core.files import encode_line, shared_path, write_lines
from blip_core.processing.picture_files import SUFFIXES
from blip_core.stores import StoreError

GROUP, GROUP_BYTES = 32, 2**26
"""Pictures, and bytes, per row group; reading one picture reads all before it in its group."""
HALVES = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


class Form(ABC):
    """A format of output shards."""

    suffix: ClassVar[str]

    def check(self) -> None:  # noqa: B027  # most formats need no library
        """Raise `ValueError` where the library that writes the format is not installed."""

    @abstractmethod
    def write(self, path: Path, lines: Sequence[Line], items: Mapping[str, Item]) -> None:
        """Write a shard; `items` has the pictures of its lines by their keys.

        Raises `OSError` where it cannot be written, `ChangedError` where a picture changed after it was captioned.
        """

    @abstractmethod
    def read(self, path: Path) -> list[Line]:
        """Return the lines of a shard without the bytes of pictures. Raises `ValueError` for a damaged one."""


class JsonLines(Form):
    """A line for each picture, with its path; pictures of shards become files in a folder of the shard's name."""

    suffix = ".jsonl"

    def write(self, path: Path, lines: Sequence[Line], items: Mapping[str, Item]) -> None:
        written = []
        for line in lines:
            item = items[line["key"]]
            if item.picture.member:
                data = read_again(line, item.picture)
                line = {**line, "image": _name(path, item, data)}
                with shared_path(path.parent / line["image"]) as temporary:
                    temporary.write_bytes(data)
            written.append(line)
        write_lines(path, written)

    def read(self, path: Path) -> list[Line]:
        return read_lines(path)


class Parquet(Form):
    """A row for each picture; `image` is a structure of bytes and name, as Hugging Face's."""

    suffix = ".parquet"

    def check(self) -> None:
        import_pyarrow()

    def write(self, path: Path, lines: Sequence[Line], items: Mapping[str, Item]) -> None:
        pq = import_pyarrow()
        import pyarrow as pa

        texts = pa.list_(pa.string())
        picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns = {"key": pa.string(), "hash": pa.string(), "caption": texts, "source": texts}
        schema = pa.schema({"image": picture, **columns, "score": pa.list_(pa.float64())})
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with (
            shared_path(path) as temporary,
            open(temporary, "wb") as file,
            pq.ParquetWriter(file, schema, **plain) as writer,
        ):
            for rows in _groups(_with_pictures(path, lines, items)):
                writer.write_table(pa.Table.from_pylist(rows, schema))

    def read(self, path: Path) -> list[Line]:
        columns = ["image.path", "key", "hash", "caption", "source", "score"]
        pq = import_pyarrow()
        try:
            with pq.ParquetFile(for_arrow(path)) as file:
                rows = file.read(columns).to_pylist()
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:  # for damaged files pyarrow raises more than its own errors
            raise _broken(path, error) from None
        return [{**row, "image": row["image"]["path"], "key": _restore(row["key"])} for row in rows]


class WebDataset(Form):
    """A picture and a .json of the same name for each line."""

    suffix = ".tar"

    def write(self, path: Path, lines: Sequence[Line], items: Mapping[str, Item]) -> None:
        with shared_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in _with_pictures(path, lines, items):
                name, data = row["image"]["path"], row["image"]["bytes"]
                text = encode_line({field: value for field, value in row.items() if field != "image"})
                for member, content in ((name, data), (os.path.splitext(name)[0] + ".json", text)):
                    header = tarfile.TarInfo(member)  # fixed date and owner: identical bytes on every machine
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))

    def read(self, path: Path) -> list[Line]:
        lines: list[Line] = []
        image = ""
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:  # reads the captions, skipping the pictures
                    if not member.name.endswith(".json"):
                        image = member.name
                    elif found := tar.extractfile(member):
                        line = json.loads(found.read())
                        lines.append({**line, "image": image, "key": _restore(line["key"])})
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise _broken(path, error) from None
        return lines


FORMS: dict[str, Form] = {"jsonl": JsonLines(), "parquet": Parquet(), "webdataset": WebDataset()}


def read_again(line: Line, picture: Picture) -> bytes:
    """Return the bytes of a captioned picture. Raises `ChangedError` where they have changed or cannot be read."""
    try:
        data = picture.read()
    except ChangedError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ChangedError(
            f"{picture.name} was captioned and cannot be read any more ({reason}); restore it and run the command "
            "again, or use another folder."
        ) from error
    if hashlib.blake2b(data, digest_size=16).hexdigest() != line["hash"]:
        raise ChangedError(
            f"{picture.name} changed after it was captioned; restore it and run the command again, or use another "
            "folder."
        )
    return data


def read_lines(path: Path) -> list[Line]:
    """Read a file of JSON lines. Raises `ValueError` for one that is damaged."""
    return files.read_lines(path, _remedy(path))


def _restore(key: str) -> str:
    """A key with the bytes of a file name that are no UTF-8, which shards with pictures hold as `\\udc..`."""
    return HALVES.sub(lambda found: chr(int(found[1], 16)), key)


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error}); {_remedy(path)} and run again to rebuild it.")


def _remedy(path: Path) -> str:
    return f"remove scored/{path.stem}.jsonl and kept/{path.name}"


def _with_pictures(path: Path, lines: Sequence[Line], items: Mapping[str, Item]) -> Iterator[Line]:
    """Lines with the bytes of their picture and its name in the shard, and with texts that are UTF-8."""
    for line in lines:
        item = items[line["key"]]
        data = read_again(line, item.picture)
        key = line["key"].encode("utf-8", "backslashreplace").decode()
        yield {**line, "image": {"bytes": data, "path": _name(path, item, data)}, "key": key}


def _groups(rows: Iterable[Line]) -> Iterator[list[Line]]:
    group: list[Line] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"]["bytes"])
        if len(group) == GROUP or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _name(path: Path, item: Item, data: bytes) -> str:
    """The name of a picture in its shard, such as `00000/00000017.jpg`; the suffix follows from its format."""
    with Image.open(io.BytesIO(data)) as image:
        kind = (image.format or "").lower()
    suffix = {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")
    return f"{path.stem}/{item.number:08}{suffix if suffix in SUFFIXES else '.jpg'}"
