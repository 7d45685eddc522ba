"""Rounds of CapFilt: captioner and filter are trained on what was kept, and begin again with it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from blip_core.cli.arguments import scale_argument
from blip_core.cli.parser import CommandParser
from blip_core.engines import ENGINES, get_engine
from blip_core.stores import on_disk

TASKS = {"captioner": "caption", "filter": "retrieval"}
"""What each of the models is trained for, by its argument."""


def check_rounds(args: argparse.Namespace, parser: CommandParser) -> dict[str, Any]:
    """Return the settings of training; ends the command with exit code 2 where they or the arguments cannot work."""
    from blip_core.training import read_settings
    from blip_core.training.settings import merged_settings, parse_setting

    if args.train_set and args.rounds == 1:
        parser.error("argument --train-set: needs --rounds of 2 or more")
    if args.rounds == 1:
        return {}
    if args.dry_run:
        parser.error("argument --dry-run: not with --rounds")
    if args.shards:
        parser.error(f"argument {scale_argument(args)}: not with --rounds, as a round waits for all of the one before")
    if not get_engine(args.engine).trainer:
        able = ", ".join(row.name for row in ENGINES.values() if row.trainer)
        parser.error(f"argument --rounds: --engine {args.engine} cannot train; use one of {able}")
    on_disk(args.output)
    try:
        options = merged_settings([parse_setting(one) for one in args.train_set])
        for task in TASKS.values():
            read_settings(task, None, [options])
    except ValueError as error:
        parser.error(f"argument --train-set: {error}")
    return options


def round_folder(args: argparse.Namespace, number: int) -> str:
    """The folder of a round, counted from 1: the output itself where there is only one."""
    return str(args.output) if args.rounds == 1 else os.path.join(args.output, f"round-{number}")


def train_models(args: argparse.Namespace, data: str, folder: str, options: dict[str, Any]) -> int | None:
    """Train both models on what a round kept, in its folder, and name them in `args`.

    Training that was stopped goes on. Returns the signal that stopped it now, None where it came to its end.
    """
    from blip_core.training import train

    for argument, task in TASKS.items():
        place = os.path.join(folder, argument)
        print(f"blip: training the {argument} on what was kept", file=sys.stderr)
        model, engine = getattr(args, argument), get_engine(args.engine).name
        own = {"device": args.device, "background": args.background, "seed": args.seed, "fast_decode": args.fast_decode}
        given = {name: value for name, value in own.items() if value is not None}
        result = train(task, data, model, place, engine=engine, resume=True, events=args.json, **{**given, **options})
        if result.stopped:
            return result.stopped
        setattr(args, argument, place)
    return None
