"""The index of `blip search`: what a folder holds, and its features, by one process or by several."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from blip_core.cli.backend import Backend, for_workers
from blip_core.cli.find_pictures import files_inside, tell_passed
from blip_core.cli.report import Report
from blip_core.files import file_version
from blip_core.jobs.read_ahead import in_one_line, read_batches
from blip_core.jobs.sharding import SHARD_SIZE, OnRay, Shard, Share, Work, check_worker, cut, work_through
from blip_core.processing.picture_files import is_picture_name
from blip_core.search import Entry, FeatureIndex, Matcher
from blip_core.search.index_parts import Parts
from blip_core.search.video import frame_files, is_video_file

Result = TypeVar("Result")
Encoded = tuple[np.ndarray, int]
"""A feature, (width,), and how many frames of a video it is of; 0 for a picture."""


def collect(folder: str, recursive: bool, videos: bool, report: Report) -> dict[str, str]:
    """The pictures (and videos) of a folder by their names relative to it, each with a stamp of its state.

    Raises `ValueError` where there are none.
    """

    def wanted(name: str) -> bool:
        return is_picture_name(name) or (videos and is_video_file(name) and not name.startswith("."))

    problems: dict[str, str] = {}
    passed: Counter[str] = Counter()
    found = {path: stamp(path) for path in files_inside(folder, recursive, wanted, problems=problems, passed=passed)}
    for path, problem in problems.items():
        report.problem(path, problem)
    tell_passed(passed)
    if videos and not recursive:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            frames = frame_files(entry.path) if entry.is_dir() and not entry.name.startswith(".") else []
            if frames:
                state = "\n".join(f"{os.path.basename(path)} {stamp(path)}" for path in frames)
                found[entry.path] = hashlib.blake2b(os.fsencode(state), digest_size=16).hexdigest()
    if not found:
        hint = "" if recursive else "; --recursive looks in the folders below too"
        raise ValueError(f"{folder}: no pictures in this folder{hint}")
    return {os.path.relpath(path, folder): state for path, state in found.items()}


def stamp(path: str) -> str:
    """What changes when a file is written: its size in bytes and its time in nanoseconds."""
    try:
        size, time = file_version(path)
    except OSError:  # gone, or a link to nowhere: reading it will tell
        return "missing"
    return f"{size} {time}"


def to_encode(stamps: Mapping[str, str], known: Mapping[str, Entry | tuple[str, int]], frames: int) -> list[str]:
    """The names of what is new or changed since it became known."""
    return [
        name
        for name, state in stamps.items()
        if name not in known or known[name][0] != state or known[name][1] not in (0, frames)
    ]


def encode(
    matcher: Matcher, names: Sequence[str], folder: str, args: argparse.Namespace
) -> Iterator[list[tuple[str, Encoded | Exception]]]:
    """Encode pictures and videos by their names, batch by batch; a picture may have what is wrong with it instead."""

    def work(items: list[np.ndarray]) -> list[Encoded]:
        counts = [args.frames if len(item) > 1 else 0 for item in items]
        return list(zip(matcher.image_features(items), counts, strict=True))

    return run_batches(names, args.batch_size, reader(matcher, folder, args), work)


def run_batches(
    paths: Sequence[str],
    size: int,
    read: Callable[[str], np.ndarray],
    work: Callable[[list[np.ndarray]], Sequence[Result]],
) -> Iterator[list[tuple[str, Result | Exception]]]:
    """Read pictures ahead of `work`, which the model does on a batch at a time.

    Yields each batch when it is done: every picture with its result, or with what went wrong while it was read.
    """
    for batch in read_batches(paths, size, read):
        good = [picture for _, picture in batch if not isinstance(picture, Exception)]
        results = iter(work(good) if good else [])
        yield [(path, picture if isinstance(picture, Exception) else next(results)) for path, picture in batch]


def update(
    index: FeatureIndex, matcher: Matcher, folder: str, stamps: dict[str, str], args: argparse.Namespace, report: Report
) -> None:
    """Encode what is new or changed, batch by batch, and forget what is gone."""
    known = index.entries()
    # What is not looked for today, such as folders below, stays in the index as long as it exists.
    index.remove(name for name in known if name not in stamps and not os.path.lexists(os.path.join(folder, name)))
    todo = to_encode(stamps, known, args.frames)
    report.skipped = len(stamps) - len(todo) - report.done
    with report.progress(len(todo)):
        for batch in encode(matcher, todo, folder, args):
            good = {name: result for name, result in batch if not isinstance(result, Exception)}
            if good:
                entries = {name: (stamps[name], frames) for name, (_, frames) in good.items()}
                index.add(entries, np.stack([feature for feature, _ in good.values()]))
            for name, result in batch:
                if isinstance(result, Exception):
                    if name in known:
                        index.remove([name])  # as it was before it broke
                    report.problem(os.path.join(folder, name), result)
                else:
                    report.finished()


def encode_parts(
    index: FeatureIndex,
    matcher: Matcher,
    folder: str,
    stamps: dict[str, str],
    args: argparse.Namespace,
    how: OnRay | None,
    report: Report,
) -> None:
    """Encode this process's share of the shards, but for what is encoded already, into parts of the index."""
    parts = Parts(index.path, matcher.identity, matcher.width)
    todo = set(to_encode(stamps, {**index.entries(), **parts.entries()}, args.frames))
    mine = []
    for shard in (args.shards or Share()).take(cut(list(stamps.items()), args.shard_size or SHARD_SIZE)):
        if items := [item for item in shard.items if item[0] in todo]:
            mine.append(Shard(parts.name(shard.name, items), items))
        report.skipped += len(shard.items) - len(items)
    there = os.path.abspath(folder)
    start: Callable[[], Work[Shard[tuple[str, str]]]] = partial(partial, encode_part, matcher, there, args, parts)
    if how:
        start = partial(start_elsewhere, matcher.identity, there, for_workers(args), parts)
    with report.progress(sum(len(shard.items) for shard in mine)):
        for count in work_through(mine, start, how):
            report.step(count)
    for line in (line for shard in mine for line in parts.read(shard.name)):
        if "error" not in line:
            report.done += 1
        elif args.shards:  # else the search that follows tries it once more, and says so
            report.problem(os.path.join(folder, line["name"]), line["error"])


def start_elsewhere(model: str, folder: str, args: argparse.Namespace, parts: Parts) -> Work[Shard[tuple[str, str]]]:
    """Begin in a process of its own, with a model that must be that of the index."""
    backend = Backend("BlipForImageTextRetrieval", args)
    matcher = Matcher(backend.model, backend.processor, args.batch_size)
    check_worker(matcher.identity, model)
    return partial(encode_part, matcher, folder, args, parts)


def encode_part(
    matcher: Matcher, folder: str, args: argparse.Namespace, parts: Parts, shard: Shard[tuple[str, str]]
) -> Iterator[int]:
    """Encode a shard's pictures, names and stamps, into its part; yields how many more pictures are done."""
    stamps, lines = dict(shard.items), []
    for batch in encode(matcher, list(stamps), folder, args):
        for name, result in batch:
            if isinstance(result, Exception):
                lines.append({"name": name, "error": in_one_line(result)})
            else:
                feature, frames = result
                lines.append(parts.line(name, stamps[name], frames, feature))
        yield len(batch)
    parts.write(shard.name, lines)


def reader(matcher: Matcher, folder: str, args: argparse.Namespace) -> Callable[[str], np.ndarray]:
    """A function that reads a picture or video by its name."""
    return lambda name: matcher.read(os.path.join(folder, name), args.frames)
