"""`blip train`: fine-tune or pre-train a model on pictures and texts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from blip_core.cli.arguments import add_data_arguments, add_engine_option, colour, store_cache, whole
from blip_core.cli.load_model import import_quietly, shipped
from blip_core.cli.parser import CommandParser
from blip_core.engines import get_engine
from blip_core.tasks import TASKS, get_task, recipes

OWN: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "epochs": ("N", whole(1), "passes over the data"),
    "batch_size": ("N", whole(1), "examples per step on each device"),
    "learning_rate": ("RATE", float, "the highest learning rate"),
    "accumulation": ("N", whole(1), "batches whose gradients make one step"),
    "image_size": ("PIXELS", whole(1), "size of the pictures (the model's own)"),
    "precision": ("TYPE", str, "float32, bfloat16 or float16 (float32)"),
    "seed": ("N", whole(0), "all that is random follows from it (42)"),
    "workers": ("N", whole(0), "threads that read pictures (2)"),
    "report_to": ("NAME,...", str, "trackers of accelerate, such as tensorboard (none)"),
    "lora": ("RANK", whole(1), "train changes of this rank, and write them as an adapter (16 is usual)"),
    "save_every": ("STEPS", whole(1), "save a checkpoint every so many steps, not only after each epoch"),
    "background": ("COLOUR", colour, "put transparent pictures on it, then and in use (the model's own)"),
    "device": ("NAME", str, "such as cpu, cuda or cuda:1 (a GPU where there is one)"),
}
"""The settings that have options of their own."""


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "TASK --data PATH... --output FOLDER [options]",
        "Fine-tune or pre-train a model on pictures and texts.",
        "blip train caption --data data.jsonl --output my-captioner --epochs 5",
    )
    tasks = [task.name for task in TASKS.values() if task.trains]
    presets = [name for task in tasks for name in recipes(task)]
    parser.add_argument("task", choices=tasks, metavar="TASK", help=", ".join(tasks))
    parser.add_argument("--data", required=True, nargs="+", help="files or folders of any form in docs/data.md")
    parser.add_argument(
        "--model",
        help="a folder, a weight file, a Hub repository (the model in the package); new: config.json, base, large",
    )
    parser.add_argument(
        "--vision", metavar="MODEL", help="an ImageNet ViT to begin a new model with: a file, folder or Hub repository"
    )
    parser.add_argument(
        "--text", metavar="MODEL", help="a BERT of any language to begin it with, and its vocabulary: the same"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="checkpoints, logs and the model to use")
    add_engine_option(parser)
    parser.add_argument("--tokenizer", metavar="FOLDER", help="processor files, where they are not beside the model")
    add_data_arguments(parser)
    parser.add_argument("--chunks", nargs="+", metavar="DATA", help="further data, one of them in each epoch, in turn")
    parser.add_argument("--validation", nargs="+", metavar="DATA", help="measure on these after each epoch")
    parser.add_argument("--validation-split", metavar="NAME", help="the split of these, such as val")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in the output folder, if there is one")
    again.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    parser.add_argument("--json", action="store_true", help="write progress to standard error as JSON lines")
    group = parser.add_argument_group("settings", "All of them are listed in docs/training.md.")
    group.add_argument(
        "--recipe",
        "--preset",
        default="auto",
        metavar="NAME",
        help=f"auto: by the size of data and model; or a preset of the paper: {', '.join(presets)} (auto)",
    )
    group.add_argument("--config", metavar="FILE.toml", help="settings over those of the recipe")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, over those of the file"
    )
    for name, (metavar, kind, text) in OWN.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=text)
    group.add_argument(
        "--freeze",
        metavar="PART",
        help="vision: leave the vision encoder as it is; vision:N: its first N blocks; none (by the recipe)",
    )
    group.add_argument(
        "--fast-decode", action="store_true", default=None, help="decode large JPEG files at a part of their size"
    )
    group.add_argument(
        "--gradient-checkpointing", action="store_true", default=None, help="less memory for more computing"
    )


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Train; returns the exit code: 0, or 128 and the number of the signal that stopped the run."""
    from blip_core.training import read_settings, train
    from blip_core.training.settings import given_settings, merged_settings, parse_setting

    own = {name: getattr(args, name) for name in (*OWN, "freeze", "fast_decode", "gradient_checkpointing")}
    try:
        given = [*map(parse_setting, args.set), {name: value for name, value in own.items() if value is not None}]
        options = merged_settings(given_settings(args.config, given))
        read_settings(args.task, None, [options], args.recipe)  # refuses what cannot work before a framework is loaded
    except ValueError as error:
        parser.error(str(error))
    engine = get_engine(args.engine)
    import_quietly(engine)
    result = train(
        args.task,
        args.data,
        args.model or (None if args.vision or args.text else shipped(get_task(args.task).head)),
        args.output,
        engine=engine.name,
        revision=args.revision,
        vision=args.vision,
        text=args.text,
        tokenizer=args.tokenizer,
        chunks=args.chunks,
        validation=args.validation,
        image_root=args.image_root,
        split=args.split,
        validation_split=args.validation_split,
        recipe=args.recipe,
        resume=args.resume,
        overwrite=args.overwrite,
        events=args.json,
        store_cache=store_cache(args, parser),
        **options,
    )
    if result.rank == 0:
        where = "stopped; the same command with --resume goes on" if result.stopped else "done"
        print(f"blip: {where}: {result.output}, step {result.step}", file=sys.stderr)
    return 128 + result.stopped if result.stopped else 0
