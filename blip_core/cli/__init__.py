"""The `blip` command: what belongs to no single subcommand - the parser, the errors, the exit code."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import blip_core
from blip_core.cli import answer, capfilt, caption, classify, evaluate, explain, match, search, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process unless given, and return its exit code.

    0: all is done. 1: something failed, which is said on standard error (with `--json`, for a picture, on standard
    output). 2: the arguments make no sense. 130: interrupted; what was finished until then is kept.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any file name can be printed
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            return args.run(args)
        except KeyboardInterrupt:
            complain("interrupted")
            return 130
        except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (ValueError, OSError) as error:
            complain(f"error: {error}")
            return 1
        except Exception as error:
            if not is_out_of_memory(error):
                raise  # a mistake of ours, which a report should show whole
            complain("error: out of memory; try a smaller --batch-size, or --dtype bfloat16")
            return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each sets `run`, a function from the parsed arguments to the exit code."""
    parser = argparse.ArgumentParser(
        prog="blip",
        description="Describe pictures, answer questions about them, match them with texts and labels.",
        epilog="`blip COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"blip {blip_core.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    caption.add_command(commands)
    answer.add_command(commands)
    match.add_command(commands)
    classify.add_command(commands)
    explain.add_command(commands)
    search.add_command(commands)
    evaluate.add_command(commands)
    capfilt.add_command(commands)
    train.add_command(commands)
    from conversion.cli import add_commands  # here and not above: blip_core stands without the conversion package

    add_commands(commands)
    return parser


def is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out, which each framework and device says in its own words."""
    words = ("out of memory", "allocate memory", "OOM when allocating")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def complain(message: str) -> None:
    """Print one line on standard error."""
    print("blip:", " ".join(message.split()), file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line, without the place in the code that it comes from."""
    complain(f"warning: {message}")
