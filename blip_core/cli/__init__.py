"""The `blip` command: what belongs to no single subcommand - the choice of one, the errors, the exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import blip_core
from blip_core.cli.commands import COMMANDS
from blip_core.cli.interrupts import CODE, INTERRUPTED, end_on_interrupt
from blip_core.cli.parser import CommandParser, nearest_word

STREAMS = ("stdin", "stdout", "stderr")
OURS = ("blip_core", "blip_pt", "blip_tf", "conversion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process unless given, and return its exit code.

    0: all is done. 1: something failed, which is said on standard error (with `--json`, for a picture, on standard
    output). 2: the arguments make no sense. 130: interrupted; what was finished until then is kept.
    """
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any file name can be printed
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            if argv is None:
                end_on_interrupt()
            try:
                return run_command(sys.argv[1:] if argv is None else list(argv))
            except Exception as error:
                if INTERRUPTED.is_set():  # an import that was broken off fails in ways of its own
                    raise KeyboardInterrupt from error
                raise
        except KeyboardInterrupt:
            complain("interrupted")
            return CODE
        except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (ValueError, OSError) as error:
            complain(f"error: {describe_error(error)}")
            return 1
        except ImportError as error:
            package = (error.name or "").split(".")[0]
            if package in OURS and isinstance(error, ModuleNotFoundError):
                raise
            complain(f"error: {error if package in OURS else missing_package(package)}")
            return 1
        except Exception as error:
            if not is_out_of_memory(error):
                raise  # a mistake of ours, which a report should show whole
            complain("error: out of memory; try a smaller --batch-size, or --dtype bfloat16")
            return 1


def run_command(words: Sequence[str]) -> int:
    """Import the command that the first word names, and run it with the others."""
    if words and words[0] in COMMANDS:
        module = COMMANDS[words[0]].load()
        parser = CommandParser(prog=f"blip {words[0]}")
        module.add_arguments(parser)
        return module.run(parser.parse_args(words[1:]), parser)
    parser = main_parser()
    parser.parse_known_args(words[:1])  # ends for --help, --version and unknown options
    if not words:
        parser.error("name a command")
    parser.error(f"there is no command {words[0]!r}{nearest_word(words[0], COMMANDS)}")


def open_streams() -> None:
    """Open the standard streams that are closed, to nowhere: files opened later would be taken for them."""
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, STREAMS[number]) is None:
            setattr(sys, STREAMS[number], open(number, mode, closefd=False))  # noqa: SIM115  # as long as we run


def missing_package(package: str) -> str:
    """Say what to install where a package cannot be imported."""
    from blip_core.engines import ENGINES

    extra = next((engine.extra for engine in ENGINES.values() if engine.package == package), None)
    install = f'"blip-duo[{extra}]"' if extra else package
    return f"this needs {package}, which is not installed: pip install {install}"


def main_parser() -> CommandParser:
    """The parser of `blip` itself, whose help lists the commands."""
    parser = CommandParser(prog="blip")
    parser.describe(
        "COMMAND ...",
        "Describe pictures, answer questions about them, match them with texts and labels; train, measure and convert "
        "the models that do.",
        "blip caption photos/",
        "blip caption --help",
    )
    groups: dict[str, list[str]] = {}
    for row in COMMANDS.values():
        groups.setdefault(row.group, []).append(f"  {row.name:10}{row.text}")
    parser.description = "\n\n".join(
        [str(parser.description), *("\n".join([f"{group}:", *rows]) for group, rows in groups.items())]
    )
    parser.add_argument("--version", action="version", version=f"blip {blip_core.__version__}")
    return parser


def is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out, which each framework and device says in its own words."""
    words = ("out of memory", "allocate memory", "OOM when allocating")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def describe_error(error: Exception) -> str:
    """An error as one sentence; what the system says begins with the file, not with a number."""
    from blip_core.jobs.read_ahead import in_one_line

    return in_one_line(error)


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
