"""Parquet files, read in place: texts when a file is opened, each picture when it is needed.

A file consists of row groups, and these of pages. Texts are read some rows at a time, pictures row by row, so that at
most one page of pictures is in memory. The metadata is not trusted: a few bytes can decode to very many texts, which
therefore stay references to their dictionary until their length is known.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip_core.datasets.examples import MAX_PICTURE_BYTES, Picture, cache_of, check_version
from blip_core.datasets.look import Item
from blip_core.files import Version, file_version
from blip_core.stores import StoreCache, StoreError, StorePath, to_path

MAGIC = b"PAR1"
MAX_ROW_BYTES = 2**20  # of the texts of a row, as in tar shards
MEAN_TEXT_BYTES = 2**16  # of a row group whose texts are decoded at all
FEW = 2**20  # values that a file of any size may hold; with more it must have a byte for each
ROWS = 256  # rows whose texts are read at once
PAGE = 2**16  # bytes read from the file at once
PASSED, PASSED_BYTES = 256, 2**26  # skipped pictures that stay in memory
OPEN = 4  # files that stay open

FIELDS = ("image_id", "question", "question_id", "answer", "sentence", "label", "dataset", "split", "images", "source")
CAPTIONS = ("caption", "captions", "text")
IMAGES = ("image", "jpg", "jpeg", "png", "webp", "file_name")
"""Possible names of the column of pictures, tried in order: ours and Hugging Face's, and those of img2dataset."""
NO_PICTURES = (
    "; it is img2dataset's list of what was downloaded, without the pictures: give the folder with the .tar files"
)


def import_pyarrow() -> Any:
    """Return the module `pyarrow.parquet`. Raises `ValueError` where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError('Parquet files need pyarrow; pip install "blip-duo[parquet]", or pyarrow.') from None
    return pyarrow.parquet


def for_arrow(path: Any) -> Any:
    """What pyarrow opens: a path of the disk, or an open file of a store."""
    return path if isinstance(path, Path) else path.open("rb")


@dataclass(frozen=True, slots=True)
class ParquetPicture(Picture):
    """A picture in row `row` of row group `group`; `column` is the path of the column of its bytes."""

    column: str = ""
    group: int = 0
    row: int = 0

    def _read(self) -> bytes:
        assert self.version
        try:
            data = _open(self.path, self.column, self.version, self.cache).read(self.group, self.row)
            if data is None:
                raise ValueError("its bytes are missing")
        except Exception as error:  # pyarrow raises errors of many types for invalid files
            check_version(self.path, self.version)
            raise OSError(f"{self.name} cannot be read: {error}") from error
        return data


def read_parquet(path: Path) -> Iterator[Item]:
    """Yield the rows of a file as (number from 0, pictures, fields), and its problems as (number, reason).

    The column of pictures holds their bytes, or paths as in JSON, or structures of `bytes` and `path` as
    Hugging Face's, where bytes come before paths. What lies before the damage in a damaged file is used.
    Raises `ValueError` for a file of another kind, without that column or with cells that are too large, and
    `ChangedError` where it is written to meanwhile.
    """
    pq = import_pyarrow()
    version = file_version(path)
    try:
        file = pq.ParquetFile(for_arrow(path))
    except StoreError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from None
    with file:
        leaves = [file.schema.column(number) for number in range(len(file.schema))]
        names = file.schema_arrow.names
        image = next((name for name in IMAGES if name in names), "")
        if not image and "images" not in names:
            listing = "url" in names and "key" in names
            raise ValueError(
                f"{path} must have a column named image, got {names!r:.200}{NO_PICTURES if listing else ''}."
            )
        captions = next((name for name in CAPTIONS if name in names), "")
        wanted = {*FIELDS, captions, image}
        stored = ""  # the path of the bytes of pictures
        for leaf in leaves:
            if leaf.path in (image, f"{image}.bytes") and leaf.physical_type == "BYTE_ARRAY" and not _is_text(leaf):
                stored = leaf.path
        texts = [leaf for leaf in leaves if leaf.path.split(".")[0] in wanted and leaf.path != stored]
        for claim in _claims(file.metadata, {stored, *(leaf.path for leaf in texts)}):
            if not 0 <= claim <= max(version[0], FEW):
                raise ValueError(f"{path} says that it has {claim} values in {version[0]} bytes, which cannot be used.")
        for mean, paths in ((MEAN_TEXT_BYTES, {leaf.path for leaf in texts}), (MAX_PICTURE_BYTES, {stored})):
            for chunk in _chunks(file.metadata, paths):
                if chunk.total_uncompressed_size > max(mean * chunk.num_values, PASSED_BYTES):
                    raise ValueError(
                        f"{path} has {chunk.num_values} values of {chunk.path_in_schema} in "
                        f"{chunk.total_uncompressed_size} bytes, too many to read; leave out the largest."
                    )
    number, cache = 0, cache_of(path)
    columns = [leaf.path for leaf in texts]
    shared = [leaf.path for leaf in texts if leaf.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(for_arrow(path), read_dictionary=shared, pre_buffer=False, buffer_size=PAGE) as file:
        for group in range(file.num_row_groups):
            in_bytes = stored and not _all_missing(file.metadata.row_group(group), stored)
            try:
                for row, entry in enumerate(_entries(file, group, columns)):
                    place = str(number)
                    number += 1
                    try:
                        if isinstance(entry, Exception):
                            raise entry
                        entry["caption"] = entry.get(captions)
                        if in_bytes:
                            where = (str(path), place, 0, 0, version, cache)
                            yield place, (ParquetPicture(*where, stored, group, row),), entry
                        else:
                            value = entry.get(image)
                            named = value.get("path") if isinstance(value, dict) else value
                            yield place, None, {**entry, "image": named} if image else entry
                    except ValueError as error:
                        yield place, str(error)
            except Exception as error:
                yield "", f"the file is damaged; what lies before is used ({error})"
                break
    check_version(path, version)


def _claims(metadata: Any, columns: set[str]) -> Iterator[int]:
    """The numbers of rows and of values of each row group in these columns that the metadata state."""
    yield metadata.num_rows
    yield from (chunk.num_values for chunk in _chunks(metadata, columns))


def _chunks(metadata: Any, columns: set[str]) -> Iterator[Any]:
    """The metadata of these columns in each row group."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        chunks = map(group.column, range(group.num_columns))
        yield from (chunk for chunk in chunks if chunk.path_in_schema in columns)


def _is_text(leaf: Any) -> bool:
    return bool(leaf.logical_type.type == "STRING")


def _all_missing(group: Any, column: str) -> bool:
    """Tell whether a row group is known to have no value of a column."""
    chunks = map(group.column, range(group.num_columns))  # none of this name in a damaged file
    found = [chunk for chunk in chunks if chunk.path_in_schema == column and chunk.is_stats_set]
    return any(chunk.statistics.null_count == chunk.num_values for chunk in found)


def _entries(file: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any] | ValueError]:
    """The fields of each row of a row group, or what is wrong with them."""
    for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], columns=columns, use_threads=False):
        parts = [batch] if _size(batch) <= MAX_ROW_BYTES else [batch.slice(row, 1) for row in range(len(batch))]
        for part in parts:
            for row in range(len(part)):
                try:
                    if len(part) == 1 and (size := _size(part)) > MAX_ROW_BYTES:
                        raise ValueError(f"has texts of {size} bytes, more than {MAX_ROW_BYTES}")
                    yield {name: _to_text(part.column(name)[row].as_py()) for name in part.schema.names}
                except UnicodeDecodeError as error:
                    yield ValueError(f"has a text that is not UTF-8: {error}")
                except ValueError as error:
                    yield error


def _size(values: Any) -> int:
    """Estimate how many bytes the values of a batch or an array take in Python."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(values, pa.RecordBatch):
        return sum(_size(column) for column in values.columns)
    if isinstance(values, pa.StructArray):
        return sum(_size(column) for column in values.flatten())
    if isinstance(values, pa.DictionaryArray):
        lengths = pc.take(pc.binary_length(values.dictionary), values.indices)
        return 8 * len(values) + (pc.sum(lengths).as_py() or 0)
    if pa.types.is_nested(values.type):
        return 8 * len(values) + _size(values.flatten())
    return int(values.nbytes)


def _to_text(value: Any) -> Any:
    """Bytes as texts, also in lists and structures; all else as it is. Raises `UnicodeDecodeError`."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_to_text(one) for one in value]
    return {name: _to_text(one) for name, one in value.items()} if isinstance(value, dict) else value


@lru_cache(maxsize=OPEN)
def _open(path: str, column: str, version: Version, cache: tuple[str, int] | None) -> _Pictures:
    return _Pictures(StorePath(path, StoreCache(*cache)) if cache else to_path(path), column)


class _Pictures:
    """The column of pictures of a file, read sequentially; threads may share it.

    Some skipped pictures stay in memory for threads that ask for them a little later.
    """

    def __init__(self, path: Any, column: str):
        self.file = import_pyarrow().ParquetFile(for_arrow(path), pre_buffer=False, buffer_size=PAGE)
        self.column = column
        self.lock = threading.Lock()
        self.rows: Iterator[Any] = iter(())
        self.next = (-1, 0)  # row group, and row in it
        self.passed: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()
        self.room = PASSED_BYTES

    def read(self, group: int, row: int) -> bytes | None:
        """Return the bytes of a picture, None where they are missing."""
        with self.lock:
            if (group, row) in self.passed:
                return self.passed[group, row]
            if self.next[0] != group or self.next[1] > row:
                batches = self.file.iter_batches(
                    batch_size=1, row_groups=[group], columns=[self.column], use_threads=False
                )
                self.rows = (batch.column(0)[0].as_py() for batch in batches)
                self.next = (group, 0)
            while self.next[1] <= row:
                try:
                    value = next(self.rows)
                except StopIteration:
                    raise ValueError("the row group has fewer rows than it says") from None
                data: bytes | None = value["bytes"] if isinstance(value, dict) else value
                self._keep(self.next, data)
                self.next = (group, self.next[1] + 1)
            return data

    def _keep(self, place: tuple[int, int], data: bytes | None) -> None:
        self.passed[place] = data
        self.room -= len(data or b"")
        while len(self.passed) > 1 and (self.room < 0 or len(self.passed) > PASSED):
            self.room += len(self.passed.popitem(last=False)[1] or b"")
