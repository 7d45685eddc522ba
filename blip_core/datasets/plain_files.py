"""General forms: JSON, CSV and Parquet whose entries name pictures, tar shards, folders with texts beside pictures."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip_core.datasets import parquet
from blip_core.datasets.entries import sidecar_entry
from blip_core.datasets.examples import Picture
from blip_core.datasets.look import MAX_LINE_BYTES, SAVE, Item, Look, each, lines, numbered
from blip_core.datasets.shards import read_shard
from blip_core.files import open_regular
from blip_core.processing.picture_files import SUFFIXES
from blip_core.processing.texts import HALF
from blip_core.stores import walk


def is_tar(look: Look) -> bool:
    """A tar archive."""
    return look.suffix == ".tar" or look.start[257:262] == b"ustar"


def read_tar(look: Look) -> Iterator[Item]:
    """Read a shard in WebDataset's form."""
    return read_shard(look.path)


def is_parquet(look: Look) -> bool:
    """A Parquet file."""
    return not look.is_folder and (look.suffix == ".parquet" or look.start[:4] == parquet.MAGIC)


def read_parquet(look: Look) -> Iterator[Item]:
    """Read a Parquet file."""
    return parquet.read_parquet(look.path)


def is_csv(look: Look) -> bool:
    """A file that ends in .csv."""
    return look.suffix == ".csv"


def read_csv(look: Look) -> Iterator[Item]:
    """Read the rows of a CSV file."""
    return each(csv_rows(look.path), _as_it_is)


def is_array(look: Look) -> bool:
    """A JSON array; what is called .jsonl only if an object comes first, as its first line may be a broken one."""
    return look.opening == "[" and (look.suffix != ".jsonl" or look.start.partition(b"[")[2].lstrip()[:1] == b"{")


def read_array(look: Look) -> Iterator[Item]:
    """Read the entries of a JSON array; places are their indices from 0."""
    return each(numbered(look.array()), _as_it_is)


def is_json_lines(look: Look) -> bool:
    """What is called .jsonl; or text that begins with an object and is not one object of many lines, or no text."""
    by_name = look.suffix == ".jsonl" and look.opening != "{" and not is_array(look)
    return not look.is_folder and (by_name or not look.opening or (look.opening == "{" and not _is_one_object(look)))


def _is_one_object(look: Look) -> bool:
    return look.document is not None and not look.entry


def read_json_lines(look: Look) -> Iterator[Item]:
    """Read an object from each line; places are the numbers of lines from 1."""
    return each(json_objects(look.path), _as_it_is)


def _as_it_is(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {entry!r:.80}")
    return entry


def json_objects(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line, or what is wrong with it, by the number of the line from 1."""
    for number, line in enumerate(lines(file), 1):
        try:
            if line is None:
                raise ValueError(f"is longer than {MAX_LINE_BYTES} bytes, which no example needs")
            if line.strip():
                yield str(number), json.loads(line)
        except UnicodeDecodeError as error:
            yield str(number), ValueError(f"is not UTF-8 ({error}); {SAVE}")
        except json.JSONDecodeError as error:
            yield str(number), ValueError(f"is not valid JSON: {error}")
        except RecursionError:
            yield str(number), ValueError("is nested too deeply")
        except ValueError as error:
            yield str(number), error


def csv_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield rows as dictionaries, or what is wrong with them, by the number of the last line of each from 2."""
    too_long = "-" * (csv.field_size_limit() + 1) + "\n"  # which the reader refuses
    rows = csv.reader(
        (too_long if line is None else line.decode("utf-8", "surrogateescape") for line in lines(file)), strict=True
    )
    heading: list[str] = []
    while True:
        try:
            row = next(rows)
            if not heading:
                heading = row
                if not {"image", "images", "file_name"} & set(heading):
                    raise ValueError(f"{file} must have a column named image, got {heading or 'none'!r:.200}.")
            elif len(row) not in (0, len(heading)):
                quote = "; put a text that holds a comma into double quotes" if len(row) > len(heading) else ""
                yield str(rows.line_num), ValueError(f"has {len(row)} fields, the heading {len(heading)}{quote}")
            elif any(HALF.search(text) for name, text in zip(heading, row, strict=False) if name != "image"):
                yield str(rows.line_num), ValueError(f"is not UTF-8; {SAVE}")
            elif row:
                yield str(rows.line_num), dict(zip(heading, row, strict=True))
        except csv.Error as error:
            yield str(rows.line_num), ValueError(f"is not valid CSV: {error}")
        except StopIteration:
            if not heading:
                raise ValueError(f"{file} must have a column named image, got none.") from None
            return


def is_folder(look: Look) -> bool:
    """A folder."""
    return look.is_folder


def read_folder(look: Look) -> Iterator[Item]:
    """Read pictures with a .txt or .json of the same name beside them, in this folder and those below."""
    folder = look.path
    unlisted: list[OSError] = []
    for parent, folders, files in walk(str(folder), onerror=unlisted.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = {name for name in files if not name.startswith(".")}
        pictures = {os.path.splitext(name)[0] for name in names if name.lower().endswith(SUFFIXES)}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            path = os.path.join(parent, name)
            place = os.path.relpath(path, folder)
            if suffix.lower() in SUFFIXES:
                sidecars = {end: os.path.join(parent, stem + end) for end in (".txt", ".json") if stem + end in names}
                try:
                    yield place, (Picture(path),), sidecar_entry({k: _text(v) for k, v in sidecars.items()})
                except (OSError, ValueError) as error:
                    yield place, str(error)
            elif suffix in (".txt", ".json") and stem not in pictures:
                yield place, "has no picture beside it"
    for closed in unlisted:
        yield os.path.relpath(closed.filename, folder), f"this folder cannot be listed: {closed.strerror}"


def _text(path: str) -> bytes:
    with open_regular(path) as file:
        text = file.read(MAX_LINE_BYTES + 1)
    if len(text) > MAX_LINE_BYTES:
        raise ValueError(f"{path} is longer than {MAX_LINE_BYTES} bytes, which no text of a picture needs")
    return text
