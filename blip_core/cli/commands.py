"""The table of commands. To add one, add a row here and a module with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from blip_core.cli.parser import CommandParser


class CommandModule(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Describe the command and add its arguments."""
        ...

    def run(self, args: argparse.Namespace, parser: CommandParser) -> int:
        """Do what the arguments say and return the exit code; `parser.error` refuses arguments that contradict."""
        ...


@dataclass(frozen=True)
class Command:
    """A row: the word to type, the module, one line for `blip --help`, and the heading it stands under there."""

    name: str
    module: str
    text: str
    group: str

    def load(self) -> CommandModule:
        """Import the module. Raises `ValueError` where the package that it lies in is not installed."""
        package, _, _ = self.module.partition(".")
        try:
            return cast(CommandModule, import_module(self.module))
        except ModuleNotFoundError as error:
            if error.name not in (package, self.module) or package == "blip_core":
                raise
            raise ValueError(
                f"`blip {self.name}` needs the package {package!r}, which is not installed; install blip-duo again."
            ) from None


USE, DATA, FILES = "use a model", "data and training", "checkpoints"
COMMANDS: dict[str, Command] = {}


def register(command: Command) -> None:
    """Add a row to the table, or replace the one of the same name."""
    COMMANDS[command.name] = command


for _row in (
    Command("caption", "blip_core.cli.caption", "say what pictures show", USE),
    Command("answer", "blip_core.cli.answer", "answer questions about pictures", USE),
    Command("dialogue", "blip_core.cli.converse", "answer a question about a picture after others", USE),
    Command("match", "blip_core.cli.match", "say how well texts describe pictures", USE),
    Command("classify", "blip_core.cli.classify", "say which of some labels pictures show", USE),
    Command("explain", "blip_core.cli.explain", "show where a picture has each word of a text", USE),
    Command("search", "blip_core.cli.search", "find the pictures of a folder that fit a text or a picture", USE),
    Command("serve", "blip_core.cli.serve", "serve a page and an API", USE),
    Command("data", "blip_core.cli.data", "say what is in data, and what cannot be used", DATA),
    Command("train", "blip_core.cli.train", "train a model on your own data", DATA),
    Command("evaluate", "blip_core.cli.evaluate", "measure how good a model is on a data set", DATA),
    Command("capfilt", "blip_core.cli.capfilt", "clean a data set of captions from the web", DATA),
    Command("status", "blip_core.cli.status", "say how far a long job is", DATA),
    Command("inspect", "conversion.cli_inspect", "say what a checkpoint holds", FILES),
    Command("convert", "conversion.cli_convert", "write a checkpoint in another format", FILES),
    Command("parity", "conversion.cli_parity", "prove that two engines compute the same", FILES),
):
    register(_row)
