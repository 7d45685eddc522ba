"""Pictures from the web: Conceptual Captions, whose pictures somebody downloaded, and what img2dataset downloads."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

from blip_core.datasets.look import Item, Look, each, moved, text_lines
from blip_core.datasets.parquet import read_parquet
from blip_core.datasets.plain_files import read_folder
from blip_core.datasets.shards import read_shard

URL = re.compile(r"https?://\S+")
SHARD = re.compile(r"\d+(?=\.tar$|\.parquet$|_stats\.json$)")


def is_conceptual(look: Look) -> bool:
    """Lines of a caption and an address between tabs, in either order, under a heading or without one."""
    if "\t" not in look.heading:
        return False
    heading = look.heading.lower().split("\t")
    return {"caption", "url"} <= set(heading) or any(URL.fullmatch(part.strip()) for part in heading[:2])


def read_conceptual(look: Look) -> Iterator[Item]:
    """Yield an entry for each line; a third field names the picture's file, else the downloaders' usual names do."""
    names = look.heading.lower().split("\t")
    has_heading = {"caption", "url"} <= set(names)
    skip = 2 if has_heading else 1

    def make(line: tuple[int, str]) -> dict[str, Any]:
        row, text = line
        first, tab, rest = text.partition("\t")
        second, _, file = rest.partition("\t")
        if not tab:
            raise ValueError(f"must be a caption, a tab and an address, got {text!r:.80}")
        caption, url = (second, first) if URL.fullmatch(first.strip()) else (first, second)
        number = zlib.crc32(url.strip().encode("utf-8", "surrogatepass"))
        given = (f"{row}_{number}", str(number), f"{row:09}.jpg", f"{row:08}.jpg")
        return {"image": (file.strip(),) if file.strip() else given, "caption": caption}

    def rows() -> Iterator[tuple[str, Any]]:
        for place, line in text_lines(look.path):
            if (row := int(place) - skip) >= 0:
                yield place, line if isinstance(line, ValueError) else (row, line)

    return each(rows(), make)


def is_shards(look: Look) -> bool:
    """A folder of shards by number, each with its statistics or its Parquet file."""
    found = {(match[0], name[match.end() :]) for name in look.names if (match := SHARD.match(name))}
    stems = {stem for stem, _ in found}
    return any((stem, "_stats.json") in found or {(stem, ".tar"), (stem, ".parquet")} <= found for stem in stems)


def read_shards(look: Look) -> Iterator[Item]:
    """Yield the examples of all shards: of .tar files, of folders, or of Parquet files that hold pictures."""
    for stem in sorted({match[0] for name in look.names if (match := SHARD.match(name))}):
        path = look.path / stem
        tar, parquet = look.path / f"{stem}.tar", look.path / f"{stem}.parquet"
        if tar.name in look.names:
            items = read_shard(tar)
        elif path.name in look.names:
            items = read_folder(Look(path))
        elif parquet.name in look.names:
            items = read_parquet(parquet)
        else:
            yield stem, "its pictures are missing; img2dataset left statistics alone"
            continue
        yield from moved(items, f"{stem}/")
