"""A whole run of CapFilt."""

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
    """How a run ended. While shards are `missing`, all else is None or empty.

    Attributes:
        data: The pattern of the files to train on; None for a dry run.
        report: The HTML page; scores.png lies beside it.
        counts: Pictures and captions by outcome, see `Summary.counts`.
        problems: Where each unusable input is, and why it is unusable.
        missing: Shards that other processes have still to do.
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
    """Write a caption for each picture, and keep those, the web's and this one, that match it (BLIP section 3.3).

    A run that was stopped resumes when it is called again in the same way. `batch_size` and `readers` change no
    caption. docs/capfilt.md describes the files in `output`.

    Args:
        dataset: Opened for "caption" or "pretrain". Examples of the same file are one picture with all their captions.
        models: The captioner and the filter, or a function that loads them (with `on_ray`; it must be picklable).
        output: The folder that gets the shards and the report.
        threshold: The least probability of a match, 0 to 1, at which a caption is kept.
        to: "jsonl" with the paths of pictures, or "parquet" or "webdataset" with their bytes.
        near_duplicates: Drop a picture whose features in the filter have at least this cosine similarity, in (0, 1],
            with those of an earlier picture that is kept; None keeps it.
        batch_size: How many pictures the models get at once.
        shard_size: Pictures in a shard.
        readers: Threads that read pictures.
        share: The shards that this process does. Several processes share a run by calling this alike; the process that
            finds all shards complete finishes the run.
        on_ray: Let Ray do the work.
        dry_run: Report on this many pictures only, spread over the input, in this process.
        progress: Show a progress bar.

    Returns:
        How the run ended.

    Raises:
        ValueError: For a setting, data or a folder that cannot be used.
        OSError: Where the folder cannot be written.
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
    count: int,
    scoring: Scoring,
    threshold: float,
    near_duplicates: float | None,
    progress: bool,
) -> tuple[list[Line], list[Line]]:
    """Report what a sample of pictures would keep and drop."""
    chosen = [items[at] for at in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]
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
    near = _near(np.concatenate(features), chosen, _has_kept(chosen, decided[0]), near_duplicates)
    return decide(scored, chosen, items, firsts, near, threshold)


def _decide_all(
    folder: OutputFolder,
    shards: Sequence[Shard[Item]],
    items: Sequence[Item],
    threshold: float,
    near_duplicates: float | None,
) -> Iterator[tuple[list[Line], list[Line]]]:
    """Decide and write all shards, which are scored; yields the kept and dropped lines of each.

    Any number of processes may do this at once.
    """

    def scores(shard: Shard[Item]) -> list[Line] | None:
        """The scored lines of a shard, None where it is decided."""
        with suppress(FileNotFoundError):  # another process is deciding it
            return None if folder.has_decided(shard.name) else folder.read_scored(shard.name)
        return None

    firsts = _firsts(((s.items, scores(s) or [*chain(*folder.read(s.name))]) for s in shards), len(items))
    near: dict[int, tuple[int, float]] = {}
    if near_duplicates is not None and not all(folder.has_decided(shard.name) for shard in shards):
        has_kept: list[bool] = []
        for shard in shards:
            if scored := scores(shard):
                kept, _ = decide(scored, shard.items, items, firsts, {}, threshold)
            else:
                kept, _ = folder.read(shard.name)
            has_kept += _has_kept(shard.items, kept)
        features = np.concatenate([folder.read_features(shard.name) for shard in shards])
        near = _near(features, items, has_kept, near_duplicates)
    for shard in shards:
        if (scored := scores(shard)) is None:
            yield folder.read(shard.name)
        else:
            kept, dropped = decide(scored, shard.items, items, firsts, near, threshold)
            folder.write(shard, kept, dropped)
            yield kept, dropped


def _firsts(seen: Iterable[tuple[Sequence[Item], Sequence[Line]]], count: int) -> np.ndarray:
    """Return an array (count,): picture number -> number of the first picture with the same bytes, or its own.

    `seen`: pictures in order, and lines with their hashes.
    """
    seen_numbers = array("q")

    def hashes() -> Iterator[str]:
        for part, lines in seen:
            found = {line["key"]: line["hash"] for line in lines if "hash" in line}
            for item in part:
                if item.key in found:
                    seen_numbers.append(item.number)
                    yield found[item.key]

    order, starts = group(hashes())
    order = np.array(seen_numbers)[order]
    firsts = np.arange(count)
    firsts[order] = np.repeat(order[starts[:-1]], np.diff(starts))
    return firsts


def _has_kept(items: Iterable[Item], kept: Iterable[Line]) -> list[bool]:
    """Say for each picture whether a caption is kept."""
    keys = {line["key"] for line in kept}
    return [item.key in keys for item in items]


def _near(
    features: np.ndarray, items: Sequence[Item], has_kept: Sequence[bool], near_duplicates: float
) -> dict[int, tuple[int, float]]:
    """Return picture number -> (number of the earlier look-alike, cosine similarity).

    Only pictures with a kept caption are compared; a dropped picture cannot cause another to be dropped.
    """
    features[~np.array(has_kept)] = 0
    found = find_near(features, near_duplicates)
    return {items[at].number: (items[first].number, cosine) for at, (first, cosine) in found.items()}
