"""A whole run of CapFilt, as `blip capfilt` and as a call."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from blip_core.capfilt.folder import DRY_RUN, Line, OutputFolder, writing
from blip_core.capfilt.models import CapFilter, PictureRead
from blip_core.capfilt.report import Summary, write_report
from blip_core.datasets import Dataset, Picture, clean_caption
from blip_core.reading import READERS, read_batches

LONGEST = 10_000
"""A web text of more characters is no caption."""


@dataclass(frozen=True)
class CapFiltResult:
    """How a run ended.

    `data` is the pattern of files to train on, None of a dry run. `counts` has numbers of pictures and captions by
    what became of them, see `Summary.counts`; `problems` says of each input that could not be used where it is and
    why. `report` is the HTML page; scores.png lies beside it.
    """

    data: str | None
    report: Path
    counts: dict[str, Any]
    problems: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Item:
    """A picture and what the web says of it, from one example or several."""

    number: int
    key: str
    picture: Picture
    texts: tuple[str, ...]

    @property
    def path(self) -> str:
        return os.path.abspath(self.picture.path)

    @property
    def name(self) -> str:
        return f"{self.path}:{self.picture.member}" if self.picture.member else self.path


def capfilt(
    dataset: Dataset,
    models: CapFilter,
    output: str | Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 8,
    shard_size: int = 1000,
    readers: int = READERS,
    dry_run: int | None = None,
    progress: bool = False,
) -> CapFiltResult:
    """Write a caption for each picture, and keep those, the web's and this one, that match their picture.

    `dataset` is opened for "caption" or "pretrain"; examples of the same file are one picture with all their captions.
    A caption is kept where the filter's probability of a match is at least `threshold`. `output` gets a shard of
    `shard_size` pictures at a time, see docs/capfilt.md; a run that was stopped goes on when it is called again in the
    same way. `batch_size` and `readers`, threads that read pictures, change no caption. With `dry_run` so many
    pictures, spread over the input, give the report alone. `progress` shows a bar.

    Raises `ValueError` for a setting, data or a folder that cannot be used, `OSError` where it cannot be written.
    Source: BLIP section 3.3.
    """
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a number from 0 to 1, got {threshold!r}.")
    numbers = {"batch_size": batch_size, "shard_size": shard_size, "readers": readers}
    for name, value in (numbers if dry_run is None else {**numbers, "dry_run": dry_run}).items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if dataset.task not in ("caption", "pretrain"):
        raise ValueError(f"The data set was opened for {dataset.task}, not for caption.")
    items, unusable = _items(dataset)
    if not items:
        raise ValueError("The data set has no picture with a caption.")
    summary = Summary(threshold)
    work = _Work(models, threshold, batch_size, readers)
    folder = OutputFolder(output)
    if dry_run is not None:
        if folder.path.exists() and not folder.path.is_dir():
            raise ValueError(f"{folder.path} is a file; the output of CapFilt needs a folder.")
        chosen = np.unique(np.linspace(0, len(items) - 1, dry_run).round().astype(int))
        with tqdm(total=len(chosen), unit="picture", disable=None if progress else True) as bar:
            kept, dropped = work([items[number] for number in chosen], bar)
        summary.add(kept, dropped)
    else:
        shards = {f"{at // shard_size:05}": items[at : at + shard_size] for at in range(0, len(items), shard_size)}
        settings = {"threshold": threshold, "shard_size": shard_size, **asdict(models.captioning)}
        facts = {**settings, **models.identity, "input": _fingerprint(items), "pictures": len(items)}
        folder.begin(facts, unusable)
        done = sum(len(part) for shard, part in shards.items() if folder.has(shard))
        hidden = None if progress else True
        with tqdm(total=len(items), initial=done, unit="picture", disable=hidden) as bar:
            for shard, part in shards.items():
                if folder.has(shard):
                    kept, dropped = folder.read(shard)
                    work.remember(kept, dropped)
                else:
                    kept, dropped = work(part, bar)
                    folder.write(shard, kept, dropped, _move_into(shard, kept, part))
                summary.add(kept, dropped)
        unusable = folder.problems()
    summary.add([], unusable)
    place = folder.path / DRY_RUN if dry_run is not None else folder.path
    with writing(place):
        report = write_report(place, summary, {item.key: item.picture for item in items})
    data = None if dry_run is not None else str(folder.kept / "*.jsonl")
    return CapFiltResult(data, report, summary.counts(), summary.problems)


def _items(dataset: Dataset) -> tuple[list[_Item], list[Line]]:
    """The pictures with captions, each once, in the order of the first example of each, and what else there is."""
    unusable = [{"key": key, "reason": "unusable", "detail": detail} for key, detail in dataset.problems]
    texts: dict[Picture, list[str]] = {}
    keys: dict[Picture, str] = {}
    for example in dataset:
        if example.texts:
            keys.setdefault(example.images[0], example.key)
            texts.setdefault(example.images[0], []).extend(example.texts)
        else:
            unusable.append({"key": example.key, "reason": "unusable", "detail": "has no caption"})
    pictures = enumerate(keys.items())
    return [_Item(number, key, picture, tuple(texts[picture])) for number, (picture, key) in pictures], unusable


def _fingerprint(items: Sequence[_Item]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        digest.update(repr((item.key, item.name, item.texts)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _move_into(shard: str, kept: Sequence[Line], items: Sequence[_Item]) -> dict[str, Picture]:
    """Name in the lines of a shard the files that pictures of tar files become; returns these by their path."""
    members = {item.key: item for item in items if item.picture.member}
    moved = {}
    for line in kept:
        if item := members.get(line["key"]):
            suffix = os.path.splitext(item.picture.member)[1].lower()
            line["image"] = f"{shard}/{item.number:08}{suffix}"
            moved[line["image"]] = item.picture
    return moved


class _Work:
    """The work on pictures, in order; of several with the same bytes the first counts."""

    def __init__(self, models: CapFilter, threshold: float, batch_size: int, readers: int):
        self.models, self.threshold, self.batch_size, self.readers = models, threshold, batch_size, readers
        self.seen: dict[bytes, str] = {}  # key of the first picture by the hash of its bytes

    def remember(self, kept: Sequence[Line], dropped: Sequence[Line]) -> None:
        """Know the pictures of a shard that was written before."""
        for line in (*kept, *dropped):
            if "hash" in line:
                self.seen.setdefault(bytes.fromhex(line["hash"]), line["key"])

    def __call__(self, items: Sequence[_Item], bar: tqdm) -> tuple[list[Line], list[Line]]:
        """Lines of what is kept and of what is dropped, in the order of the pictures."""
        kept: list[Line] = []
        dropped: list[Line] = []
        for batch in read_batches(items, self.batch_size, lambda item: self.models.read(item.picture), self.readers):
            good: list[tuple[_Item, PictureRead, list[str]]] = []
            for item, picture in batch:
                about: Line = {"image": item.name, "key": item.key}
                if isinstance(picture, Exception):
                    detail = " ".join(str(picture).split()) or type(picture).__name__
                    dropped.append({**about, "reason": "unreadable", "detail": detail})
                elif (first := self.seen.setdefault(bytes.fromhex(picture.digest), item.key)) != item.key:
                    dropped.append({**about, "reason": "duplicate", "detail": f"the same picture as {first}"})
                elif web := self._web(item, {**about, "hash": picture.digest}, dropped):
                    good.append((item, picture, web))
            if good:
                scored = self.models([picture for _, picture, _ in good], [web for _, _, web in good])
                for (item, picture, _), captions in zip(good, scored, strict=True):
                    about = {"image": item.name, "key": item.key, "hash": picture.digest}
                    fit = []
                    for number, found in enumerate(captions):
                        if not found.caption:
                            reason = "empty"
                        elif any(found.caption == other.caption for other in captions[:number]):
                            reason = "repeated"
                        elif found.score < self.threshold:
                            reason = "no match"
                        else:
                            fit.append(found)
                            continue
                        dropped.append({**about, **asdict(found), "reason": reason})
                    if fit:
                        columns = {name: [asdict(one)[name] for one in fit] for name in ("caption", "source", "score")}
                        kept.append({**about, **columns})
            bar.update(len(batch))
        return kept, dropped

    @staticmethod
    def _web(item: _Item, about: Line, dropped: list[Line]) -> list[str]:
        """The captions of a picture as the models were trained on them."""
        web = []
        for text in item.texts:
            if len(text) > LONGEST:
                detail = f"a caption of {len(text):,} characters, more than {LONGEST:,}"
                dropped.append(
                    {**about, "caption": f"{text[:100]}...", "source": "web", "reason": "too long", "detail": detail}
                )
            else:
                web.append(clean_caption(text))
        return web
