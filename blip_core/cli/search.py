"""`blip search`: texts or pictures -> the pictures of a folder that fit them best."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from blip_core.cli.arguments import (
    add_model_arguments,
    add_result_arguments,
    add_scale_arguments,
    on_ray,
    scale_argument,
    whole,
)
from blip_core.cli.backend import Backend
from blip_core.cli.indexing import collect, encode_parts, reader, run_batches, update
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report
from blip_core.search import FeatureIndex, Hit, Matcher, candidates, default_index, delete_index, find, rerank
from blip_core.search.index_parts import Parts
from blip_core.search.video import FRAMES, is_video_file

RERANK = 16
"""How many of the best are matched unless told otherwise: each takes a CPU about half a second (the original: 128)."""


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "[TEXT...] FOLDER [options]",
        "Find the pictures of a folder that fit a text best, or that look like another picture.",
        'blip search "a dog on a beach" photos/ --top 3',
        "blip search --image photo.jpg photos/",
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="what to look for, each in quotes; none with --image")
    folder = parser.add_argument("folder", metavar="FOLDER", help="where to look")
    folder.required = False  # with --image, one word is the folder: see `queries`
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="look for pictures like this one (can be repeated)"
    )
    parser.add_argument("--top", type=whole(1), default=10, metavar="N", help="show the N best (10)")
    parser.add_argument(
        "--rerank", type=whole(0), default=RERANK, metavar="N", help=f"match the N best one by one ({RERANK})"
    )
    add_result_arguments(parser, batch="pictures")
    group = parser.add_argument_group("videos")
    group.add_argument(
        "--videos", action="store_true", help="look for videos, too: files, and without --recursive folders of frames"
    )
    group.add_argument(
        "--frames", type=whole(2), default=FRAMES, metavar="N", help=f"look at N frames of a video ({FRAMES})"
    )
    group = parser.add_argument_group("index", "Pictures are encoded once; what is encoded is kept in an index.")
    group.add_argument("--index", metavar="FOLDER", help="where to keep the index (in the user's cache)")
    group.add_argument("--rebuild", action="store_true", help="begin the index anew")
    add_model_arguments(parser)
    add_scale_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Bring the index up to date and search it; returns the exit code."""
    texts, folder = queries(args, parser)
    how = on_ray(args, parser)
    report = Report(args.json)
    stamps = collect(folder, args.recursive, args.videos, report)
    if args.videos and find_spec("av") is None and any(map(is_video_file, stamps)):
        raise ValueError('--videos: video files need PyAV; pip install "blip-duo[video]", or av.')
    backend = Backend("BlipForImageTextRetrieval", args)
    matcher = Matcher(backend.model, backend.processor, args.batch_size)
    # Before the pictures of the folder, which may take hours: queries that cannot be understood.
    features = [matcher.text_features(texts)] if texts else []
    features += [matcher.image_features([matcher.read(path, args.frames)]) for path in args.image]
    path = args.index or default_index(folder, matcher.identity)
    if args.rebuild:
        delete_index(path)
    with FeatureIndex(path, folder, matcher.identity, matcher.width) as index:
        if args.shards or how:
            encode_parts(index, matcher, folder, stamps, args, how, report)
        if args.shards:
            return report.exit_code(summary=True)
        Parts(path, matcher.identity, matcher.width).take_into(index)
        update(index, matcher, folder, stamps, args, report)
        if not features:
            return report.exit_code(summary=True)
        entries = {name: entry for name, entry in index.entries().items() if name in stamps}
        best = max(args.top, args.rerank if texts else 0)
        hits = find(np.concatenate(features), index.features, entries, best)
    if args.rerank:
        match_best(matcher, texts, hits[: len(texts)], folder, args, report)
    show(texts, args.image, hits, folder, args.top, report)
    return report.exit_code(summary=bool(report.done))


def queries(args: argparse.Namespace, parser: CommandParser) -> tuple[list[str], str]:
    """The texts and the folder; ends the command with exit code 2 where there is nothing to search for or in."""
    texts, folder, divided = args.texts, args.folder, scale_argument(args)
    if divided and not args.index:
        parser.error(f"argument {divided}: needs --index FOLDER, which all that share the work write to")
    if divided == "--shard-size":
        parser.error("argument --shard-size: needs --shards, --ray or --ray-address")
    if folder is None:
        if len(texts) > 1 or not (args.image or divided):
            parser.error("give a text and a folder, in this order, or a folder and --image")
        texts, folder = [], texts[0]
    if args.shards and (texts or args.image or args.rebuild):
        parser.error("argument --shards: give the folder alone, and search when all parts are encoded")
    if not os.path.isdir(folder):
        parser.error(f"argument FOLDER: {folder!r} is no folder")
    for text in texts:
        if not text.strip() or os.path.isdir(text):
            parser.error(f"argument TEXT: {text!r} is {'a folder; give one, at the end' if text.strip() else 'empty'}")
    return texts, folder


def match_best(
    matcher: Matcher, texts: list[str], hits: list[list[Hit]], folder: str, args: argparse.Namespace, report: Report
) -> None:
    """Match the best of each text by ITM; every picture is read and encoded once for all texts."""
    wanted = list(candidates(hits, args.rerank))

    def embeds() -> Iterator[tuple[str, np.ndarray]]:
        for batch in run_batches(wanted, args.batch_size, reader(matcher, folder, args), matcher.embeds):
            for name, result in batch:
                if isinstance(result, Exception):
                    report.problem(os.path.join(folder, name), result)
                else:
                    yield name, result

    with report.progress(len(wanted)):
        for _ in rerank(matcher, texts, hits, args.rerank, embeds()):
            report.step()


def show(texts: list[str], images: list[str], hits: list[list[Hit]], folder: str, top: int, report: Report) -> None:
    """Print what was found: one list after the other."""
    asked = [{"text": text} for text in texts] + [{"like": image} for image in images]
    for query, found in zip(asked, hits, strict=True):
        if len(asked) > 1 and not report.json:
            report.result({}, *query.values())
        for rank, hit in enumerate(found[:top], 1):
            path = os.path.join(folder, hit.name)
            scores = {"score": hit.score, "itm": hit.itm, "itm_logit": hit.itm_logit, "itc": hit.itc}
            entry = {**query, "rank": rank, "image": path, **scores}
            itm = "" if hit.itm is None else f"score {hit.score:.3f}, itm {hit.itm:.3f}, "
            report.result(entry, f"{rank:3}. {path} ({itm}itc {hit.itc:.3f})")
