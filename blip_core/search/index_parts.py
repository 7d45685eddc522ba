"""Parts of an index, written by several processes into files until a search takes them in.

INDEX/blip-parts/MODEL/00000-0123456789abcdef.jsonl has a line for each picture of a shard that was not encoded before:
its name, stamp, frames and feature, float32 in base 64; or its error. MODEL is
`Matcher.features_identity`. Files are written atomically; equal names have equal content.
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
from blip_core.jobs.sharding import Done, Shard, Work, check_worker, clean, writing
from blip_core.search.feature_index import PARTS, FeatureIndex
from blip_core.search.folder_encoder import FolderEncoder

Line = dict[str, Any]


class Parts:
    """The parts of an index that one model makes; its features have `width` values."""

    def __init__(self, index: str | os.PathLike[str], model: str, width: int):
        self.path, self.width = Path(index).absolute() / PARTS / model, width

    @staticmethod
    def name(shard: str, items: Iterable[Sequence[str]]) -> str:
        """Return the name of the part of a shard, by the names and stamps of its pictures to encode."""
        return f"{shard}-{hashlib.blake2b(os.fsencode(repr(list(items))), digest_size=8).hexdigest()}"

    @staticmethod
    def line(name: str, stamp: str, frames: int, feature: np.ndarray) -> Line:
        """Return the line of a picture or video; `feature` is (width,)."""
        encoded = base64.b64encode(feature.astype("<f4").tobytes()).decode()
        return {"name": name, "stamp": stamp, "frames": frames, "feature": encoded}

    def write(self, part: str, lines: Iterable[Line]) -> None:
        """Write a part. Raises `OSError` where it cannot be written."""
        with writing(self.path):
            write_lines(self.path / f"{part}.jsonl", lines)

    def read(self, part: str) -> list[Line]:
        """Return the lines of a part, [] where a search has taken it in. Raises `ValueError` where it is not JSON."""
        try:
            return read_lines(self.path / f"{part}.jsonl")
        except FileNotFoundError:
            return []

    def entries(self) -> dict[str, tuple[str, int]]:
        """Return stamps and numbers of frames of all encoded files by name. Raises `ValueError` as `take_into` does."""
        return {name: entry for part in self._all() for name, entry in self._encoded(part)[0].items()}

    def take_into(self, index: FeatureIndex) -> None:
        """Add all parts to the index, in order, and remove them; after a kill in between, a part is added again.

        Raises `ValueError` for a damaged part.
        """
        for part in self._all():
            entries, features = self._encoded(part)
            if entries:
                index.add(entries, np.stack(features))
            (self.path / f"{part}.jsonl").unlink(missing_ok=True)
        clean(self.path)
        with suppress(OSError):  # it is missing, or another process writes to it
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
            raise ValueError(f"{path} is damaged ({error}); remove it and run again to rebuild it.") from None
        return entries, features


def encode_part(encoder: FolderEncoder, parts: Parts, shard: Shard[tuple[str, str]]) -> Iterator[Done]:
    """Encode the files of a shard, names and stamps, into its part; yields what was just processed."""
    stamps, lines = dict(shard.items), []
    for batch in encoder.features(stamps):
        for name, result in batch:
            if isinstance(result, Exception):
                lines.append({"name": name, "error": in_one_line(result)})
            else:
                feature, frames = result
                lines.append(parts.line(name, stamps[name], frames, feature))
        yield Done(len(batch), sum(isinstance(result, Exception) for _, result in batch))
    parts.write(shard.name, lines)


def start_elsewhere(
    load: Callable[[], Matcher], identity: str, settings: tuple[str, int, int], parts: Parts
) -> Work[Shard[tuple[str, str]]]:
    """Start in a worker process; its models must equal those of the run. `settings` are those of a `FolderEncoder`."""
    matcher = load()
    check_worker(matcher.features_identity, identity)
    return partial(encode_part, FolderEncoder(matcher, *settings), parts)
