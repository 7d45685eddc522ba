"""The argument parser of all commands: one style of help, errors of one line that name the nearest option."""

from __future__ import annotations

import argparse
import difflib
import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

WIDTH = 78
"""Characters in a line of text; the options below it are fitted to the terminal by `argparse`."""

PATHS = ("CHECKPOINT", "DATA", "DESTINATION", "FILE", "FOLDER", "IMAGE", "MODEL", "PATH", "SOURCE")
"""The metavars, or names, of arguments that are paths."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose help ends with examples, and whose errors cost one line."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._positionals.title = "arguments"
        self.examples: tuple[str, ...] = ()

    def describe(self, usage: str, text: str, *examples: str) -> None:
        """Set what the help says: the usage after the command's name, a description, and examples to type."""
        self.usage = f"%(prog)s {usage}"
        self.description = textwrap.fill(text, WIDTH)
        self.examples = examples
        lines = (f"  {example}" for example in examples)
        self.epilog = "\n".join([f"example{'s' if len(examples) > 1 else ''}:", *lines])

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2 and one line on standard error."""
        line = " ".join(message.split()).rstrip(".")
        self.exit(2, f"blip: error: {line}; {self.prog} --help explains\n")

    def parse_known_args(  # type: ignore[override]  # one signature for all of its overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        # Before argparse, which would first complain of a required option that was only misspelt.
        if args is not None and self._subparsers is None:
            self._refuse_unknown(args)
        return super().parse_known_args(args, namespace)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Read a value; in what is a path by its metavar, ~ is the home folder, which shells leave in `--model=~/x`."""
        if str(action.metavar or action.dest).upper().split(".")[0] in PATHS:
            arg_string = os.path.expanduser(arg_string)
        return super()._get_value(action, arg_string)

    def _refuse_unknown(self, words: Iterable[str]) -> None:
        known = self._option_string_actions
        for word in words:
            name = word.split("=", 1)[0]
            if word == "--":
                return
            if word.startswith("--") and " " not in name and not any(option.startswith(name) for option in known):
                self.error(f"there is no option {name}{nearest_word(name, known)}")


def nearest_word(word: str, known: Iterable[str]) -> str:
    """What to say after an unknown word: the known one that is spelt most alike, or nothing."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f", the nearest is {found[0]}" if found else ""
