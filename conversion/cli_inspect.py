"""`blip inspect`: what a checkpoint holds."""

from __future__ import annotations

import argparse
from typing import Any

from blip_core.cli.arguments import add_checkpoint_arguments
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import json_line
from conversion.inspection import CheckpointReport, inspect_checkpoint


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "CHECKPOINT [options]",
        "Say what a checkpoint holds: its format, head, sizes, parameters, and what is missing. The exit code is 1 "
        "where it is not a whole model and nothing else.",
        "blip inspect Salesforce/blip-image-captioning-base",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, a weight file, or a Hub repository")
    add_checkpoint_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Print what a checkpoint holds; returns 1 where it is not a whole model and nothing else."""
    options = {name: getattr(args, name) for name in ("config", "head", "revision", "base_model")}
    report = inspect_checkpoint(args.checkpoint, **options)
    print(json_line(report.to_dict()) if args.json else describe(report), end="")
    return 0 if report.complete else 1


def describe(report: CheckpointReport) -> str:
    """A report in lines for people."""
    types = ", ".join(f"{name}" for name in report.dtypes)
    lines = [
        report.path,
        *_adapter(report.adapter),
        line("format", f"{report.format}, {report.tensors} tensors, {report.bytes / 1e6:,.1f} MB, {types}"),
        line("head", report.head or "none that is known"),
        *_export(report.export),
        *_sizes(report.config),
        line("parameters", f"{report.total:,}"),
        *(line("", f"{count:>13,}  {label}") for label, count in report.parameters.items()),
        *(line("besides", f"{count:>13,}  {label}") for label, count in report.others.items()),
    ]
    for kind in ("missing", "unexpected", "misshapen", "duplicate"):
        names = getattr(report, kind)
        lines += [line(kind if index == 0 else "", name) for index, name in enumerate(names)]
    if report.complete:
        lines.append(line("missing", "nothing" if report.config else "unknown without config.json; pass --config"))
    return "\n".join(lines) + "\n"


def _adapter(adapter: dict[str, Any] | None) -> list[str]:
    if adapter is None:
        return []
    changes = [f"changes {', '.join(adapter['targets'])}"] * bool(adapter["targets"])
    changes += [f"replaces {', '.join(adapter['replaced'])}"] * bool(adapter["replaced"])
    about = f"{adapter['kind']} of rank {adapter['rank']}, {adapter['tensors']} tensors, task {adapter['task_type']}"
    return [line("adapter", adapter["path"]), line("", f"{about}; {'; '.join(changes)}"), line("base", "as follows")]


def _export(export: dict[str, Any] | None) -> list[str]:
    if export is None:
        return []
    size = "any size" if export["free_size"] else "the model's size"
    about = f"{export['form']}, {export['weights']} weights, pictures of {size}"
    return [line("export", about), line("", ", ".join(export["parts"]))]


def _sizes(config: dict[str, Any] | None) -> list[str]:
    if config is None:
        return []
    lines = []
    vision = config.get("vision_config", config if config["model_type"] == "blip_vision_model" else None)
    text = config.get("text_config", config if config["model_type"] == "blip_text_model" else None)
    for name, part in (("vision", vision), ("text", text)):
        if part is not None:
            each = (
                f"{part['num_hidden_layers']} layers, {part['hidden_size']} wide, {part['num_attention_heads']} heads"
            )
            end = f"{part['vocab_size']} words" if name == "text" else f"{part['image_size']} px pictures"
            lines.append(line(name, f"{each}, {end}, LayerNorm eps {part['layer_norm_eps']:g}"))
    return lines


def line(label: str, value: str) -> str:
    """A line of a report: its label in a column of its own."""
    return f"  {label:<12}{value}"
