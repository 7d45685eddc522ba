"""Arguments that several subcommands have, and the checks of their values."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from blip_core.engines import ENGINES
from blip_core.generation import GenerationConfig
from blip_core.jobs.sharding import SHARD_SIZE, OnRay, Share
from blip_core.processing.pictures import to_colour
from blip_core.stores import StoreCache, on_disk
from blip_core.stores.cache import GB

DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is run."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", help="a folder, a weight file, or a Hub repository (a small one in the package, of emoji alone)"
    )
    group.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    add_engine_arguments(group)


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, revision: bool = True) -> None:
    """How a checkpoint is read whose folder does not tell all."""
    group = parser.add_argument_group("reading")
    if revision:
        group.add_argument("--revision", help="branch, tag or commit of the Hub repository")
        group.add_argument("--base-model", metavar="PATH", help="base of an adapter (the one that it names)")
    group.add_argument("--config", metavar="FILE", help="config.json, or settings that the checkpoint lacks")
    group.add_argument("--head", metavar="CLASS", help="such as BlipForConditionalGeneration (found in the checkpoint)")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the pictures of data lie, and which part of the data is used."""
    parser.add_argument("--image-root", metavar="FOLDER", help="where the pictures lie that the data name")
    parser.add_argument(
        "--split", metavar="NAME", help="use this split alone, such as test or train+restval; all: every one"
    )
    parser.add_argument("--cache", metavar="FOLDER", help="copy shards of a store to it as a whole (read in place)")
    parser.add_argument("--cache-size", type=positive, metavar="GB", help="what it may hold (100); the oldest go first")


def store_cache(args: argparse.Namespace, parser: argparse.ArgumentParser) -> StoreCache | None:
    """Where shards of stores are copied to; ends the command with exit code 2 for a size without a folder."""
    if args.cache is None:
        if args.cache_size is not None:
            parser.error("argument --cache-size: needs --cache")
        return None
    folder = os.path.abspath(on_disk(args.cache))
    return StoreCache(folder) if args.cache_size is None else StoreCache(folder, int(args.cache_size * GB))


def add_engine_option(group: Any, text: str = "the first that is installed") -> None:
    """Which engine of the registry runs the model; `--framework` is its name of version 0.1, not shown."""
    engines = ", ".join(f"{engine.name} is {engine.title}" for engine in ENGINES.values())
    group.add_argument("--engine", choices=list(ENGINES), help=f"{engines} ({text})")
    group.add_argument("--framework", dest="engine", choices=list(ENGINES), help=argparse.SUPPRESS)


def add_engine_arguments(group: Any) -> None:
    """What a model is run by."""
    add_engine_option(group)
    group.add_argument("--device", help="such as cpu, cuda or cuda:1 (a GPU where there is one)")
    group.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="type of the weights; auto: as stored (float32)"
    )
    group.add_argument("--optimize", action="store_true", help="pack the weights for long work on a CPU")
    add_background_argument(group)
    group.add_argument(
        "--fast-decode", action="store_true", help="decode large JPEG files at a part of their size, see docs/cli.md"
    )


def add_background_argument(group: Any) -> None:
    """The ground of transparent pictures."""
    group.add_argument(
        "--background",
        metavar="COLOUR",
        type=colour,
        help="put transparent pictures on it, such as white or '#ffcc00' (the model's own)",
    )


def add_pair_arguments(parser: argparse.ArgumentParser, texts: str) -> None:
    """Add the picture, the texts, under the name `texts`, and what all commands have."""
    parser.add_argument("image", metavar="IMAGE", help="a file, a folder, a 'pattern*.jpg', or - for a list on stdin")
    parser.add_argument(
        "texts", nargs="+", metavar=texts, type=words, help=f"one {texts.lower()} or more, each in quotes"
    )
    add_result_arguments(parser, batch=f"{texts.lower()}s")
    add_model_arguments(parser)


def add_frames_argument(parser: argparse.ArgumentParser) -> None:
    """How much of a video is looked at."""
    parser.add_argument(
        "--frames", type=whole(1), default=1, metavar="N", help="take videos, too, and look at N frames of each"
    )


def add_length_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """How a text is searched for: beams and length."""
    parser.add_argument("--beams", type=whole(1), metavar="N", help="beam search with N beams (1: greedy)")
    parser.add_argument("--min-tokens", type=whole(0), metavar="N", help="at least N new tokens")
    parser.add_argument("--max-tokens", type=whole(1), metavar="N", help="at most N new tokens (20)")


def add_result_arguments(parser: argparse.ArgumentParser, batch: str) -> None:
    """How much at a time, and how the results are printed."""
    parser.add_argument("--recursive", action="store_true", help="look for pictures in folders below as well")
    parser.add_argument("--batch-size", type=whole(1), default=8, metavar="N", help=f"{batch} at a time (8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def add_scale_arguments(parser: argparse.ArgumentParser) -> None:
    """How the work is divided, which part this process does, and whether Ray does it; see `on_ray`.

    What is not given is None or False.
    """
    group = parser.add_argument_group("more processes and machines")
    group.add_argument(
        "--shard-size", type=whole(1), metavar="N", help=f"pictures in a shard, which is a file ({SHARD_SIZE})"
    )
    group.add_argument("--shards", type=_share, metavar="I/N", help="do the Ith of N parts of the shards (all)")
    group.add_argument("--ray", action="store_true", help="let Ray do the work, on this machine")
    group.add_argument("--ray-address", metavar="ADDRESS", help="let a Ray cluster do the work: auto, or where it is")
    group.add_argument("--ray-actors", type=whole(1), metavar="N", help="load the models N times (as there is room)")
    group.add_argument("--ray-cpus", type=positive, metavar="N", help="cores for each of them (1)")
    group.add_argument("--ray-gpus", type=positive, metavar="N", help="GPUs for each of them (0)")


def scale_argument(args: argparse.Namespace) -> str | None:
    """The first argument given that divides the work, None without one."""
    names = ("shards", "ray", "ray_address", "shard_size")
    return next((f"--{name.replace('_', '-')}" for name in names if getattr(args, name)), None)


def on_ray(args: argparse.Namespace, parser: argparse.ArgumentParser) -> OnRay | None:
    """How Ray does the work, None without it; ends the command with exit code 2 for options that need Ray."""
    given = {name: getattr(args, f"ray_{name}") for name in ("actors", "cpus", "gpus")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.ray or args.ray_address:
        return OnRay(args.ray_address, **given)
    if given:
        parser.error(f"argument --ray-{next(iter(given))}: needs --ray or --ray-address")
    return None


def whole(least: int) -> Callable[[str], Any]:
    """A parser of whole numbers of at least `least`."""
    return _number(int, lambda value: value >= least, f"a whole number of at least {least}")


def words(text: str) -> str:
    """Parse a text that says something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def probability(text: str) -> Any:
    """Parse a number above 0 and up to 1."""
    return _number(float, lambda value: 0 < value <= 1, "a number above 0 and up to 1")(text)


def share(text: str) -> Any:
    """Parse a number from 0 to 1."""
    return _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")(text)


def positive(text: str) -> Any:
    """Parse a number above 0."""
    return _number(float, lambda value: 0 < value < math.inf, "a number above 0")(text)


def generation_options(parser: argparse.ArgumentParser, **options: Any) -> dict[str, Any]:
    """The keywords of `generate`: what was given, and for the rest the model's own generation config decides.

    Ends the command with exit code 2 where options contradict each other.
    """
    options = {name: value for name, value in options.items() if value is not None}
    try:
        GenerationConfig(**options)
    except ValueError as error:
        parser.error(str(error))
    return {"num_return_sequences": 1, **options, "return_dict_in_generate": True}


def colour(text: str) -> str:
    """Parse a colour by its name or as #rrggbb."""
    try:
        to_colour(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a colour such as white or '#ffcc00', got {text!r}") from None
    return text


def _share(text: str) -> Share:
    try:
        return Share.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(kind: type, good: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not good(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return parse
