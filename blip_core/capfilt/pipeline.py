"""A whole run of CapFilt, as `blip capfilt` and as a call."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from blip_core.capfilt.cap_filter import CapFilter
from blip_core.capfilt.decisions import Scoring, decide
from blip_core.capfilt.items import Item, Line, find_items, fingerprint
from blip_core.capfilt.near_duplicates import find_near
from blip_core.capfilt.output_folder import DRY_RUN, OutputFolder
from blip_core.capfilt.report_page import Summary, write_report
from blip_core.capfilt.writers import FORMS
from blip_core.datasets import Dataset
from blip_core.datasets.spool import group
from blip_core.jobs.read_ahead import READERS
from blip_core.jobs.sharding import SHARD_SIZE, OnRay, Shard, Share, cut, work_through, writing
from blip_core.tasks import get_task
from blip_core.validators import choice, number, whole_number

WHOLE = Share()


@dataclass(frozen=True)
class CapFiltResult:
    """How a run ended.

    `data` is the pattern of files to train on, None of a dry run. `counts` has numbers of pictures and captions by
    what became of them, see `Summary.counts`; `problems` says of each input that could not be used where it is and
    why. `report` is the HTML page; scores.png lies beside it. Where a share of the shards was asked for and others are
    `missing`, so many, data and report are None, and counts and problems empty.
    """

    data: str | None
    report: Path | None
    counts: dict[str, Any]
    problems: list[tuple[str, str]]
    missing: int = 0


def capfilt(
    dataset: Dataset,
    models: CapFilter | Callable[[], CapFilter],
    output: str | Path,
    *,
    threshold: float = 0.5,
    to: str = "jsonl",
    near_duplicates: float | None = None,
    batch_size: int = 8,
    shard_size: int = SHARD_SIZE,
    readers: int = READERS,
    share: Share = WHOLE,
    on_ray: OnRay | None = None,
    dry_run: int | None = None,
    progress: bool = False,
) -> CapFiltResult:
    """Write a caption for each picture, and keep those, the web's and this one, that match their picture.

    `dataset` is opened for "caption" or "pretrain"; examples of the same file are one picture with all their captions.
    A caption is kept where the filter's probability of a match is at least `threshold`. `output` gets a shard of
    `shard_size` pictures at a time, see docs/capfilt.md, what is kept being `to` "jsonl" with the paths of pictures, or
    "parquet" or "webdataset" with their bytes. With `near_duplicates`, above 0 and up to 1, a picture is dropped where
    its features in the filter have at least this cosine similarity with those of a picture before it that is kept.

    A run that was stopped goes on when it is called again in the same way. `batch_size` and `readers`, threads that
    read pictures, change no caption. Of several processes that are given the same, each does its `share` of the shards,
    and whoever finds all of them there ends the run. With `on_ray` Ray does the work, for which `models` is a function
    that loads them, and can be pickled. With `dry_run` so many pictures, spread over the input, give the report alone,
    in this process. `progress` shows a bar.

    Raises `ValueError` for a setting, data or a folder that cannot be used, `OSError` where it cannot be written.
    Source: BLIP section 3.3.
    """
    number("threshold", threshold, 0, 1)
    for name, value in {"batch_size": batch_size, "shard_size": shard_size, "readers": readers}.items():
        whole_number(name, value, least=1)
    whole_number("dry_run", dry_run, least=1, optional=True)
    number("near_duplicates", near_duplicates, above=0, most=1, optional=True)
    choice("to", to, FORMS)
    FORMS[to].check()
    if get_task(dataset.task).parse is not get_task("caption").parse:  # tasks of one parser share their data
        raise ValueError(f"The data set was opened for {dataset.task}, not for caption.")
    if on_ray and isinstance(models, CapFilter):
        raise ValueError("Ray's workers load models themselves: give a function that returns a CapFilter.")
    items, unusable = find_items(dataset)
    if not items:
        raise ValueError("The data set has no picture with a caption.")
    loaded = models if isinstance(models, CapFilter) else models()
    summary = Summary(threshold)
    folder = OutputFolder(output, to, near_duplicates is not None)
    place = folder.path
    if dry_run is not None:
        if folder.path.exists() and not folder.path.is_dir():
            raise ValueError(f"{folder.path} is a file; the output of CapFilt needs a folder.")
        place = folder.path / DRY_RUN
        summary.add(*_try(items, dry_run, Scoring(loaded, batch_size, readers), threshold, near_duplicates, progress))
    else:
        settings = {"threshold": threshold, "near_duplicates": near_duplicates, "to": to, "shard_size": shard_size}
        settings |= asdict(loaded.captioning)
        facts = {**settings, **loaded.identity, "input": fingerprint(items), "pictures": len(items)}
        folder.begin(facts, unusable)
        shards = cut(items, shard_size)
        mine = share.take(shards)
        todo = [shard for shard in mine if not folder.has(shard.name)]
        start: Callable[[], Scoring] = partial(Scoring, loaded, batch_size, readers, folder)
        if on_ray:
            assert not isinstance(models, CapFilter)
            elsewhere = OutputFolder(folder.path.absolute(), to, folder.with_features)
            start = partial(Scoring.start, models, loaded.identity, batch_size, readers, elsewhere)
            del loaded  # the workers need the memory
        total, left = (sum(len(shard.items) for shard in some) for some in (mine, todo))
        with tqdm(total=total, initial=total - left, unit="picture", disable=None if progress else True) as bar:
            for count in work_through(todo, start, on_ray):
                bar.update(count)
        if missing := sum(not folder.has(shard.name) for shard in shards):
            return CapFiltResult(None, None, {}, [], missing)
        for kept, dropped in _decide_all(folder, shards, items, threshold, near_duplicates):
            summary.add(kept, dropped)
        unusable = folder.problems()
    summary.add([], unusable)
    with writing(place):
        report = write_report(place, summary, items)
    if dry_run is None:
        folder.clean()
    data = None if dry_run is not None else str(folder.kept / f"*{folder.form.suffix}")
    return CapFiltResult(data, report, summary.counts(), summary.problems)


def _try(
    items: Sequence[Item],
    number: int,
    scoring: Scoring,
    threshold: float,
    near_duplicates: float | None,
    progress: bool,
) -> tuple[list[Line], list[Line]]:
    """What would be kept and what dropped of so many pictures, spread over all."""
    chosen = [items[at] for at in np.unique(np.linspace(0, len(items) - 1, number).round().astype(int))]
    scored: list[Line] = []
    features: list[np.ndarray] = []
    with tqdm(total=len(chosen), unit="picture", disable=None if progress else True) as bar:
        for lines, some in scoring.score(chosen):
            scored += lines
            features.append(some)
            bar.update(len(lines))
    firsts = _firsts([(chosen, scored)], len(items))
    decided = decide(scored, chosen, items, firsts, {}, threshold)
    if near_duplicates is None:
        return decided
    near = _near(np.concatenate(features), chosen, _fit(chosen, decided[0]), near_duplicates)
    return decide(scored, chosen, items, firsts, near, threshold)


def _decide_all(
    folder: OutputFolder,
    shards: Sequence[Shard[Item]],
    items: Sequence[Item],
    threshold: float,
    near_duplicates: float | None,
) -> Iterator[tuple[list[Line], list[Line]]]:
    """Decide on all shards, whose scores are there, and write it; yields the lines of each, kept and dropped.

    Any number of processes may do so at once.
    """

    def scores(shard: Shard[Item]) -> list[Line] | None:
        """What the models say of a shard, None where that is decided."""
        with suppress(FileNotFoundError):  # another process decides on it just now
            return None if folder.has_decided(shard.name) else folder.read_scored(shard.name)
        return None

    firsts = _firsts(((s.items, scores(s) or [*chain(*folder.read(s.name))]) for s in shards), len(items))
    near: dict[int, tuple[int, float]] = {}
    if near_duplicates is not None and not all(folder.has_decided(shard.name) for shard in shards):
        fit: list[bool] = []
        for shard in shards:
            if scored := scores(shard):
                kept, _ = decide(scored, shard.items, items, firsts, {}, threshold)
            else:
                kept, _ = folder.read(shard.name)
            fit += _fit(shard.items, kept)
        features = np.concatenate([folder.read_features(shard.name) for shard in shards])
        near = _near(features, items, fit, near_duplicates)
    for shard in shards:
        if (scored := scores(shard)) is None:
            yield folder.read(shard.name)
        else:
            kept, dropped = decide(scored, shard.items, items, firsts, near, threshold)
            folder.write(shard, kept, dropped)
            yield kept, dropped


def _firsts(seen: Iterable[tuple[Sequence[Item], Sequence[Line]]], count: int) -> np.ndarray:
    """For the number of each of `count` pictures that of the first with the same bytes, its own where there is none.

    `seen`: pictures in order, and lines with their hashes.
    """
    numbers = array("q")

    def hashes() -> Iterator[str]:
        for part, lines in seen:
            found = {line["key"]: line["hash"] for line in lines if "hash" in line}
            for item in part:
                if item.key in found:
                    numbers.append(item.number)
                    yield found[item.key]

    order, starts = group(hashes())
    order = np.array(numbers)[order]
    firsts = np.arange(count)
    firsts[order] = np.repeat(order[starts[:-1]], np.diff(starts))
    return firsts


def _fit(items: Iterable[Item], kept: Iterable[Line]) -> list[bool]:
    """Say of each picture whether a caption is kept."""
    keys = {line["key"] for line in kept}
    return [item.key in keys for item in items]


def _near(
    features: np.ndarray, items: Sequence[Item], fit: Sequence[bool], near_duplicates: float
) -> dict[int, tuple[int, float]]:
    """For the numbers of pictures that look like one of `items` before them its number, and their cosine similarity.

    Only those of which a caption is kept, `fit`, are compared: a picture does not go for the sake of one that goes,
    too.
    """
    features[~np.array(fit)] = 0
    found = find_near(features, near_duplicates)
    return {items[at].number: (items[first].number, cosine) for at, (first, cosine) in found.items()}
