"""A whole run of CapFilt."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.capfilt.calibration import NAME as CALIBRATION
from blip_core.capfilt.calibration import Curve, Thresholds, read_curves, sample_fingerprint, write_curves
from blip_core.capfilt.calibration import calibrate as learn
from blip_core.capfilt.cap_filter import CapFilter
from blip_core.capfilt.decisions import Scoring, decide
from blip_core.capfilt.items import Item, Line, find_items, fingerprint
from blip_core.capfilt.near_duplicates import find_near, find_near_in_cells
from blip_core.capfilt.output_folder import DRY_RUN, OutputFolder
from blip_core.capfilt.report_page import SOURCES, Summary, write_report
from blip_core.capfilt.streaming import Listed, Stream
from blip_core.capfilt.writers import FORMS
from blip_core.datasets import Dataset
from blip_core.datasets.spool import group
from blip_core.inference.cells import AUTO, COMPARE, import_faiss, in_cells
from blip_core.jobs.progress import Progress
from blip_core.jobs.read_ahead import READERS
from blip_core.jobs.sharding import SHARD_SIZE, OnRay, Shard, Share, cut, work_through, writing
from blip_core.tasks import get_task
from blip_core.validators import choice, number, whole_number

WHOLE = Share()
MOST_EXACT = 100_000
"""Pictures among which near-duplicates are looked for by comparing all, unless told otherwise."""
TO_LABEL = "to-label.jsonl"
"""In the folder of a dry run: its captions, for people to label."""


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
    dataset: Dataset | Stream,
    models: CapFilter | Callable[[], CapFilter],
    output: str | Path,
    *,
    threshold: float = 0.5,
    calibrate: Dataset | None = None,
    precision: float | None = None,
    to: str = "jsonl",
    near_duplicates: float | None = None,
    compare: str = AUTO,
    batch_size: int = 8,
    shard_size: int = SHARD_SIZE,
    readers: int = READERS,
    share: Share = WHOLE,
    on_ray: OnRay | None = None,
    dry_run: int | None = None,
    progress: bool = False,
    events: bool = False,
) -> CapFiltResult:
    """Write captions for each picture, and keep those, the web's too, that match it (BLIP section 3.3).

    A run that was stopped resumes when it is called again in the same way. `batch_size` and `readers` change no
    caption. docs/capfilt.md describes the files in `output`.

    Args:
        dataset: Opened for "caption" or "pretrain". Examples of the same file are one picture with all their captions.
            A `Stream` is not listed before the work begins: each of its files is a shard.
        models: The captioner and the filter, or a function that loads them (with `on_ray`; it must be picklable).
        output: The folder that gets the shards and the report.
        threshold: The least probability of a match, 0 to 1, at which a caption is kept.
        calibrate: Labelled captions, opened for "match", from which the threshold of each source that they have is
            learned: that of the best F1.
        precision: Learn the lowest threshold with at least this precision on the sample instead, in (0, 1].
        to: "jsonl" with the paths of pictures, or "parquet" or "webdataset" with their bytes.
        near_duplicates: Drop a picture whose features in the filter have at least this cosine similarity, in (0, 1],
            with those of an earlier picture that is kept; None keeps it.
        compare: For near-duplicates, "exact" compares each picture with all that stay, "cells" with those in cells of
            similar ones, by FAISS, which finds nearly all and takes far less time; "auto" is exact up to 100,000
            pictures.
        batch_size: How many pictures the models get at once.
        shard_size: Pictures in a shard.
        readers: Threads that read pictures.
        share: The shards that this process does. Several processes share a run by calling this alike; the process that
            finds all shards complete finishes the run.
        on_ray: Let Ray do the work.
        dry_run: Report on this many pictures only, spread over the input, in this process.
        progress: Show a progress bar.
        events: Write progress to standard error as JSON lines.

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
    number("precision", precision, above=0, most=1, optional=True)
    if calibrate is None and precision is not None:
        raise ValueError("precision needs a sample to calibrate by.")
    if calibrate is not None and calibrate.task != "match":
        raise ValueError(f"The sample to calibrate by was opened for {calibrate.task}, not for match.")
    choice("compare", compare, COMPARE)
    choice("to", to, FORMS)
    FORMS[to].check()
    stream = dataset if isinstance(dataset, Stream) else None
    if stream and dry_run is not None:
        raise ValueError("A dry run needs a data set; open one of the files of the stream.")
    # Tasks of one parser share their data.
    if isinstance(dataset, Dataset) and get_task(dataset.task).parse is not get_task("caption").parse:
        raise ValueError(f"The data set was opened for {dataset.task}, not for caption.")
    known = len(dataset) if isinstance(dataset, Dataset) else 0
    if near_duplicates is not None and in_cells(compare, known, MOST_EXACT):
        import_faiss("Looking for near-duplicates in cells")  # before the work of days
    if on_ray and isinstance(models, CapFilter):
        raise ValueError("Ray's workers load models themselves: give a function that returns a CapFilter.")
    items: Sequence[Item] = ()
    unusable: list[Line] = []
    if isinstance(dataset, Dataset):
        items, unusable = find_items(dataset)
        if not items:
            raise ValueError("The data set has no picture with a caption.")
    loaded = models if isinstance(models, CapFilter) else models()
    curves: dict[str, Curve] = {}
    folder = OutputFolder(output, to, near_duplicates is not None)
    place = folder.path
    if dry_run is not None:
        if folder.path.exists() and not folder.path.is_dir():
            raise ValueError(f"{folder.path} is a file; the output of CapFilt needs a folder.")
        place = folder.path / DRY_RUN
        if calibrate is not None:
            curves = learn(loaded, calibrate, precision, batch_size, readers)
        summary = Summary(_thresholds(threshold, curves), curves)
        chosen = _chosen(items, dry_run)
        show = {"show": progress, "events": events}
        scored, kept, dropped = _try(
            items, chosen, Scoring(loaded, batch_size, readers), summary.thresholds, near_duplicates, show
        )
        summary.add(kept, dropped)
        with writing(place):
            _write_to_label(place / TO_LABEL, scored, chosen)
    else:
        settings = {"threshold": threshold, "near_duplicates": near_duplicates, "to": to}
        if stream:
            settings |= {"stream": len(stream.files), "input": stream.fingerprint}
        else:
            settings |= {"shard_size": shard_size, "input": fingerprint(items), "pictures": len(items)}
        settings |= asdict(loaded.captioning)
        if compare != AUTO:
            settings["compare"] = compare
        if calibrate is not None:
            settings |= {"calibrate": sample_fingerprint(calibrate), "precision": precision}
        learned = None
        if calibrate is not None and not (folder.path / CALIBRATION).exists():
            learned = learn(loaded, calibrate, precision, batch_size, readers)  # before a bad sample begins a run
        folder.begin({**settings, **loaded.identity})
        if not stream:
            folder.write_problems(unusable)
        place = folder.path.absolute()
        shards = stream.shards(place) if stream else cut(items, shard_size)
        mine = share.take(shards)
        todo = [shard for shard in mine if not folder.has(shard.name)]
        if learned is not None:
            with writing(folder.path):
                write_curves(folder.path, learned)
        start: Callable[[], Scoring] = partial(Scoring, loaded, batch_size, readers, folder)
        if on_ray:
            assert not isinstance(models, CapFilter)
            elsewhere = OutputFolder(folder.path.absolute(), to, folder.with_features)
            start = partial(Scoring.start, models, loaded.identity, batch_size, readers, elsewhere)
            del loaded  # the workers need the memory
        total, left = (len(some) if stream else sum(len(shard.items) for shard in some) for some in (mine, todo))
        broken = len(unusable)
        how: dict[str, Any] = {"done": total - left, "name": str(share), "show": progress, "events": events}
        how["unit"] = "shard" if stream else "picture"
        with Progress("capfilt", total, folder.path, problems=lambda: broken, **how) as bar:
            for done in work_through(todo, start, on_ray):
                broken += done.problems
                bar.step(done.shards if stream else done.pictures, done.worker)
            if missing := sum(not folder.has(shard.name) for shard in shards):
                return CapFiltResult(None, None, {}, [], missing)
            if stream:
                listed = Listed(shards)
                items, shards = listed, listed.shards(shards)
                folder.write_problems(listed.unusable())
            # Read back: another process may have learned them on another kind of processor.
            curves = read_curves(folder.path) if calibrate is not None else {}
            summary = Summary(_thresholds(threshold, curves), curves)
            bar.stage("decide what is kept", len(shards), "shard")
            for kept, dropped in _decide_all(folder, shards, items, summary.thresholds, near_duplicates, compare):
                summary.add(kept, dropped)
                bar.step()
        unusable = folder.problems()
    summary.add([], unusable)
    with writing(place):
        report = write_report(place, summary, items)
    if dry_run is None:
        folder.clean()
    data = None if dry_run is not None else str(folder.kept / f"*{folder.form.suffix}")
    return CapFiltResult(data, report, summary.counts(), summary.problems)


def _thresholds(threshold: float, curves: Mapping[str, Curve]) -> dict[str, float]:
    """The threshold of each source: that which was learned, else the one for all."""
    return {source: curves[source].threshold if source in curves else threshold for source in SOURCES}


def _chosen(items: Sequence[Item], count: int) -> list[Item]:
    """A sample of pictures, spread over the input."""
    return [items[at] for at in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]


def _write_to_label(path: Path, scored: Sequence[Line], items: Sequence[Item]) -> None:
    """Write a line for each caption of a sample whose `label` people fill in, for `calibrate`."""
    rows = [
        {**{name: line[name] for name in ("image", "key", "hash")}, **found, "label": None}
        for line in scored
        for found in line.get("captions", ())
        if found["caption"]
    ]
    FORMS["jsonl"].write(path, rows, {item.key: item for item in items})


def _try(
    items: Sequence[Item],
    chosen: Sequence[Item],
    scoring: Scoring,
    thresholds: Thresholds,
    near_duplicates: float | None,
    show: Mapping[str, Any],
) -> tuple[list[Line], list[Line], list[Line]]:
    """Return the scored lines of a sample of pictures, and what it would keep and drop."""
    scored: list[Line] = []
    features: list[np.ndarray] = []
    with Progress("capfilt", len(chosen), **show) as bar:
        for lines, some in scoring.score(chosen):
            scored += lines
            features.append(some)
            bar.step(len(lines))
    firsts = _firsts([(chosen, scored)], len(items))
    decided = decide(scored, chosen, items, firsts, {}, thresholds)
    if near_duplicates is None:
        return scored, *decided
    together = np.concatenate(features)
    together[~np.array(_has_kept(chosen, decided[0]), bool)] = 0
    near = _near(find_near(together, near_duplicates), chosen)
    return scored, *decide(scored, chosen, items, firsts, near, thresholds)


def _decide_all(
    folder: OutputFolder,
    shards: Sequence[Shard[Item]],
    items: Sequence[Item],
    thresholds: Thresholds,
    near_duplicates: float | None,
    compare: str,
) -> Iterator[tuple[list[Line], list[Line]]]:
    """Decide and write all shards, which are scored; yields the kept and dropped lines of each.

    Any number of processes may do this at once.
    """

    def scores(shard: Shard[Item]) -> list[Line] | None:
        """The scored lines of a shard, None where it is decided."""
        with suppress(FileNotFoundError):  # another process is deciding it
            return None if folder.has_decided(shard.name) else folder.read_scored(shard.name)
        return None

    def lines(shard: Shard[Item]) -> list[Line]:
        """The lines of a shard with the hashes of its pictures."""
        return [*chain(*folder.read(shard.name))] if (scored := scores(shard)) is None else scored

    firsts = _firsts(((shard.items, lines(shard)) for shard in shards), len(items))
    near: dict[int, tuple[int, float]] = {}
    if near_duplicates is not None and not all(folder.has_decided(shard.name) for shard in shards):
        has_kept: list[bool] = []
        for shard in shards:
            if (scored := scores(shard)) is not None:
                kept, _ = decide(scored, shard.items, items, firsts, {}, thresholds)
            else:
                kept, _ = folder.read(shard.name)
            has_kept += _has_kept(shard.items, kept)
        features = np.concatenate([folder.read_features(shard.name) for shard in shards])
        features[~np.array(has_kept, bool)] = 0
        if in_cells(compare, len(features), MOST_EXACT):
            near = _near(find_near_in_cells(features, near_duplicates, folder.cells(features)), items)
        else:
            near = _near(find_near(features, near_duplicates), items)
    for shard in shards:
        if (scored := scores(shard)) is None:
            yield folder.read(shard.name)
        else:
            kept, dropped = decide(scored, shard.items, items, firsts, near, thresholds)
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


def _near(found: Mapping[int, tuple[int, float]], items: Sequence[Item]) -> dict[int, tuple[int, float]]:
    """Return picture number -> (number of the earlier look-alike, cosine similarity), of places in `items`."""
    return {items[at].number: (items[first].number, cosine) for at, (first, cosine) in found.items()}
