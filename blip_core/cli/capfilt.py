"""`blip capfilt`: caption pictures from the web anew, and keep the captions that match."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blip_core.cli.arguments import (
    add_data_arguments,
    add_engine_arguments,
    add_scale_arguments,
    on_ray,
    probability,
    share,
    store_cache,
    whole,
)
from blip_core.cli.capfilt_rounds import check_rounds, round_folder, train_models
from blip_core.cli.load_model import load
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report, json_line, say_missing
from blip_core.datasets import open_dataset
from blip_core.engines import get_engine
from blip_core.inference import Captioner, Matcher
from blip_core.inference.cells import AUTO, COMPARE
from blip_core.jobs.read_ahead import READERS
from blip_core.jobs.sharding import SHARD_SIZE, OnRay, Share
from blip_core.stores import StoreCache

if TYPE_CHECKING:
    from blip_core.capfilt import CapFilter, CapFiltResult, Captioning


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "--input PATH... --captioner M --filter M --output FOLDER",
        "Write a caption for each picture of a data set from the web, and keep those captions, the web's and the "
        "model's, that match their picture.",
        "blip capfilt --input web.jsonl --captioner cap/ --filter itm/ --output clean/",
    )
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="files or folders of any form in docs/data.md"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--stream", action="store_true", help="list nothing first: each file of the input, tar or Parquet, is a shard"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="what is kept, what is dropped, the report")
    parser.add_argument(
        "--threshold", type=share, default=0.5, metavar="P", help="keep captions that match with this probability (0.5)"
    )
    parser.add_argument(
        "--calibrate", metavar="FILE", help="learn the threshold of each source from captions that people labelled"
    )
    parser.add_argument(
        "--precision", type=probability, metavar="P", help="with --calibrate: the lowest with this precision (best F1)"
    )
    parser.add_argument(
        "--near-duplicates", type=probability, metavar="COSINE", help="drop pictures that look so much like one before"
    )
    parser.add_argument(
        "--compare",
        choices=COMPARE,
        help="for near-duplicates: with all pictures, or those in cells of like ones (auto: cells beyond 100,000)",
    )
    parser.add_argument(
        "--to", choices=["jsonl", "parquet", "webdataset"], default="jsonl", help="the form of what is kept (jsonl)"
    )
    parser.add_argument("--batch-size", type=whole(1), default=8, metavar="N", help="pictures at a time (8)")
    parser.add_argument("--readers", type=whole(1), default=READERS, metavar="N", help=f"threads ({READERS})")
    parser.add_argument("--dry-run", type=whole(1), metavar="N", help="only report on N pictures of the input")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    group = parser.add_argument_group("captions")
    group.add_argument(
        "--prompt",
        help='what captions begin with, unless given what the captioner was trained with, else "a picture of"',
    )
    how = group.add_mutually_exclusive_group()
    how.add_argument("--top-p", type=probability, default=0.9, metavar="P", help="draw from tokens of sum P (0.9)")
    how.add_argument("--beams", type=whole(1), metavar="N", help="search with N beams instead of drawing")
    group.add_argument(
        "--num-captions", type=whole(1), default=1, metavar="N", help="write N and keep the best-scored (1)"
    )
    group.add_argument("--seed", type=whole(0), default=0, metavar="N", help="what is drawn follows from it (0)")
    group = parser.add_argument_group("models", "A folder, a weight file, or a Hub repository each.")
    group.add_argument("--captioner", required=True, metavar="MODEL", help="writes captions")
    group.add_argument("--filter", required=True, metavar="MODEL", help="says whether captions match")
    add_engine_arguments(group)
    group = parser.add_argument_group("rounds")
    group.add_argument(
        "--rounds",
        type=whole(1),
        default=1,
        metavar="N",
        help="train captioner and filter on what was kept, and begin again with them, until N rounds are done (1)",
    )
    group.add_argument(
        "--train-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --rounds: a setting of this training, such as epochs=2 (docs/training.md)",
    )
    add_scale_arguments(parser)


@dataclass(frozen=True)
class Loader:
    """Loads the models as the arguments say, here or in a process of Ray's."""

    captioner: str
    filter: str
    engine: str
    device: str | None
    dtype: str
    background: str | None
    fast_decode: bool
    captioning: Captioning
    optimize: bool = False
    revision: None = None

    def __call__(self) -> CapFilter:
        """Raises `ValueError` or `OSError` where a model cannot be had or lacks its head."""
        from blip_core.capfilt import CapFilter

        args = argparse.Namespace(**vars(self))
        captioner, matcher = load(Captioner, args, "captioner"), load(Matcher, args, "filter")
        return CapFilter(captioner, matcher, self.captioning)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Caption and filter, in as many rounds; returns the exit code, 1 where some of the input could not be used."""
    if args.precision is not None and not args.calibrate:
        parser.error("argument --precision: needs --calibrate")
    if args.compare and args.near_duplicates is None:
        parser.error("argument --compare: needs --near-duplicates")
    if args.stream and (other := (args.dry_run and "--dry-run") or (args.shard_size and "--shard-size")):
        parser.error(f"argument {other}: not with --stream, which takes each file as it is")
    options, how, cache, code = check_rounds(args, parser), on_ray(args, parser), store_cache(args, parser), 0
    for number in range(1, args.rounds + 1):
        folder = round_folder(args, number)
        result = filter_captions(args, folder, how, cache)
        code = max(code, tell(args, result))
        if number < args.rounds:
            assert result.data is not None  # only a part of several has none
            if stopped := train_models(args, result.data, folder, options):
                return 128 + stopped
    return code


def filter_captions(
    args: argparse.Namespace, folder: str, how: OnRay | None, cache: StoreCache | None
) -> CapFiltResult:
    """Caption and filter once, into a folder."""
    from blip_core.capfilt import Captioning, Stream, capfilt

    how_to_open = (args.image_root, args.split, cache)
    dataset = Stream(args.input, *how_to_open) if args.stream else open_dataset(args.input, "caption", *how_to_open)
    sample = open_dataset(args.calibrate, "match", args.image_root, store_cache=cache) if args.calibrate else None
    captioning = Captioning(args.beams, args.top_p, args.seed, args.num_captions, args.prompt)
    captioner, matcher = (os.path.abspath(n) if os.path.exists(n) else n for n in (args.captioner, args.filter))
    engine = get_engine(args.engine).name
    return capfilt(
        dataset,
        Loader(
            captioner,
            matcher,
            engine,
            args.device,
            args.dtype,
            args.background,
            args.fast_decode,
            captioning,
            args.optimize,
        ),
        folder,
        threshold=args.threshold,
        calibrate=sample,
        precision=args.precision,
        to=args.to,
        near_duplicates=args.near_duplicates,
        compare=args.compare or AUTO,
        batch_size=args.batch_size,
        shard_size=args.shard_size or SHARD_SIZE,
        readers=args.readers,
        share=args.shards or Share(),
        on_ray=how,
        dry_run=args.dry_run,
        progress=True,
        events=args.json,
    )


def tell(args: argparse.Namespace, result: CapFiltResult) -> int:
    """Say how a run ended; returns the exit code."""
    say_missing(result.missing)
    report = Report(as_json=False)
    for where, reason in result.problems:
        report.problem(where, reason)
    if args.json:
        problems = [{"input": where, "error": reason} for where, reason in result.problems]
        page = result.report and str(result.report)
        files = {"data": result.data, "report": page, "missing": result.missing}
        print(json_line({**result.counts, **files, "problems": problems}), end="")
    else:
        for name, counts in result.counts.items():
            listed = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            print(f"{name + ('' if name == 'pictures' else ' captions'):18} {listed}")
        for what in filter(None, (result.data, result.report)):
            print(f"blip: wrote {what}", file=sys.stderr)
    return 1 if result.problems else 0
