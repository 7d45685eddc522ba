"""`blip search`: texts or pictures -> the pictures of a folder that fit them best."""

from __future__ import annotations

import argparse
import os
from functools import partial
from importlib.util import find_spec

from blip_core.cli.arguments import (
    add_model_arguments,
    add_result_arguments,
    add_scale_arguments,
    on_ray,
    scale_argument,
    whole,
)
from blip_core.cli.load_model import for_workers, load
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report
from blip_core.inference.cells import AUTO, COMPARE
from blip_core.inference.matcher import Matcher
from blip_core.jobs.sharding import SHARD_SIZE, OnRay, Share
from blip_core.processing.video import FRAMES, is_video_file
from blip_core.search import Collection, Hit, Searcher, candidates
from blip_core.search.searcher import RERANK


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
    parser.add_argument(
        "--compare", choices=COMPARE, default=AUTO, help="with all pictures, or those in cells (auto: beyond a million)"
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
    group.add_argument("--rebuild", action="store_true", help="rebuild the index from scratch")
    add_model_arguments(parser)
    add_scale_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Bring the index up to date and search it; returns the exit code."""
    texts, folder = queries(args, parser)
    how = on_ray(args, parser)
    report = Report(args.json)
    collection = Collection.find(folder, recursive=args.recursive, videos=args.videos)
    for path, problem in collection.problems.items():
        report.problem(path, problem)
    if args.videos and find_spec("av") is None and any(map(is_video_file, collection.stamps)):
        raise ValueError('--videos: video files need PyAV; pip install "blip-duo[video]", or av.')
    options = {"index": args.index, "rebuild": args.rebuild, "frames": args.frames, "batch_size": args.batch_size}
    options["compare"] = args.compare
    with Searcher(load(Matcher, args), collection, **options) as searcher:
        # Before the pictures of the folder, which may take hours: queries that cannot be understood.
        features = searcher.queries(texts, args.image)
        if args.shards or how:
            encode_parts(searcher, args, how, report)
        if args.shards:
            return report.exit_code(summary=True)
        update(searcher, report)
        if not len(features):
            return report.exit_code(summary=True)
        hits = searcher.search(features, max(args.top, args.rerank if texts else 0))
        if args.rerank:
            with report.progress(len(candidates(hits[: len(texts)], args.rerank)), "search"):
                for name, error in searcher.rerank(texts, hits[: len(texts)], args.rerank):
                    report.problem(os.path.join(folder, name), error) if error else report.step()
    show(texts, args.image, hits, folder, args.top, report)
    return report.exit_code(summary=bool(report.done))


def update(searcher: Searcher, report: Report) -> None:
    """Encode what is new or changed."""
    stamps, folder = searcher.collection.stamps, searcher.collection.folder
    searcher.parts.take_into(searcher.index)
    todo = len(searcher.outdated())
    report.skipped = len(stamps) - todo - report.done
    with report.progress(todo, "search", searcher.index.path if todo else None):
        for name, error in searcher.update():
            report.problem(os.path.join(folder, name), error) if error else report.finished()


def encode_parts(searcher: Searcher, args: argparse.Namespace, how: OnRay | None, report: Report) -> None:
    """Encode this process's share of the shards, but for what is encoded already, into parts of the index."""
    mine, done = searcher.shards(args.shards or Share(), args.shard_size or SHARD_SIZE)
    report.skipped += done
    total = done + sum(len(shard.items) for shard in mine)
    with report.progress(total, "search", searcher.index.path, done=done, name=str(args.shards or Share())):
        for step in searcher.encode_parts(mine, how, partial(load, Matcher, for_workers(args))):
            report.worked(step)
    for line in (line for shard in mine for line in searcher.parts.read(shard.name)):
        if "error" not in line:
            report.done += 1
        elif args.shards:  # else the search that follows tries it once more, and says so
            report.problem(os.path.join(searcher.collection.folder, line["name"]), line["error"])


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
