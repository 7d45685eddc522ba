"""Features that several processes make for one index: files beside it, until a search takes them in.

INDEX/blip-parts/MODEL/00000-0123456789abcdef.jsonl has a line for each picture of a shard that was not encoded before:
its name, stamp, frames and feature, float32 in base 64; or what was wrong with it. MODEL is
`Matcher.features_identity`. A file is whole or absent, and nobody writes one of its name with other content.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.files import read_lines, write_lines
from blip_core.inference.matcher import Matcher
from blip_core.jobs.read_ahead import in_one_line
from blip_core.jobs.sharding import Shard, Work, check_worker, clean, writing
from blip_core.search.feature_index import PARTS, FeatureIndex
from blip_core.search.folder_encoder import FolderEncoder

Line = dict[str, Any]


class Parts:
    """The parts of an index that one model makes, whose features have `width` values."""

    def __init__(self, index: str | os.PathLike[str], model: str, width: int):
        self.path, self.width = Path(index).absolute() / PARTS / model, width

    @staticmethod
    def name(shard: str, items: Iterable[Sequence[str]]) -> str:
        """What the part of a shard with these pictures to encode, their names and stamps, is called."""
        return f"{shard}-{hashlib.blake2b(os.fsencode(repr(list(items))), digest_size=8).hexdigest()}"

    @staticmethod
    def line(name: str, stamp: str, frames: int, feature: np.ndarray) -> Line:
        """The line of a picture or video; `feature` is (width,)."""
        encoded = base64.b64encode(feature.astype("<f4").tobytes()).decode()
        return {"name": name, "stamp": stamp, "frames": frames, "feature": encoded}

    def write(self, part: str, lines: Iterable[Line]) -> None:
        """Write a part. Raises `OSError` where it cannot be written."""
        with writing(self.path):
            write_lines(self.path / f"{part}.jsonl", lines)

    def read(self, part: str) -> list[Line]:
        """The lines of a part, none where a search has taken it in. Raises `ValueError` for one that is no JSON."""
        try:
            return read_lines(self.path / f"{part}.jsonl")
        except FileNotFoundError:
            return []

    def entries(self) -> dict[str, tuple[str, int]]:
        """The stamp and number of frames of all that is encoded, by name. Raises `ValueError` as `take_into` does."""
        return {name: entry for part in self._all() for name, entry in self._encoded(part)[0].items()}

    def take_into(self, index: FeatureIndex) -> None:
        """Add all parts to the index, in their order, and remove them. Killed in between, a part is taken in again.

        Raises `ValueError` for a part that is damaged.
        """
        for part in self._all():
            entries, features = self._encoded(part)
            if entries:
                index.add(entries, np.stack(features))
            (self.path / f"{part}.jsonl").unlink(missing_ok=True)
        clean(self.path)
        with suppress(OSError):  # there is none, or another process writes to it
            self.path.rmdir()
            self.path.parent.rmdir()

    def _all(self) -> list[str]:
        return sorted(path.stem for path in self.path.glob("*.jsonl"))

    def _encoded(self, part: str) -> tuple[dict[str, tuple[str, int]], list[np.ndarray]]:
        lines = self.read(part)
        try:
            good = [line for line in lines if "error" not in line]
            entries = {line["name"]: (line["stamp"], line["frames"]) for line in good}
            features = [np.frombuffer(base64.b64decode(line["feature"]), "<f4").reshape(self.width) for line in good]
        except (LookupError, TypeError, ValueError) as error:
            path = self.path / f"{part}.jsonl"
            raise ValueError(f"{path} is not as it was written ({error}); remove it to have it made anew.") from None
        return entries, features


def encode_part(encoder: FolderEncoder, parts: Parts, shard: Shard[tuple[str, str]]) -> Iterator[int]:
    """Encode a shard's pictures, names and stamps, into its part; yields how many more pictures are done."""
    stamps, lines = dict(shard.items), []
    for batch in encoder.features(stamps):
        for name, result in batch:
            if isinstance(result, Exception):
                lines.append({"name": name, "error": in_one_line(result)})
            else:
                feature, frames = result
                lines.append(parts.line(name, stamps[name], frames, feature))
        yield len(batch)
    parts.write(shard.name, lines)


def start_elsewhere(
    load: Callable[[], Matcher], identity: str, how: tuple[str, int, int], parts: Parts
) -> Work[Shard[tuple[str, str]]]:
    """Begin in a process of its own, with a matcher that must be that of the index; `how` is of a `FolderEncoder`."""
    matcher = load()
    check_worker(matcher.features_identity, identity)
    return partial(encode_part, FolderEncoder(matcher, *how), parts)
