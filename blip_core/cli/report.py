"""What is said on the terminal: results, problems, progress, a summary."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any, Self

from tqdm import tqdm

from blip_core.jobs.progress import Progress
from blip_core.jobs.read_ahead import in_one_line
from blip_core.jobs.sharding import Done


def json_line(entry: dict[str, Any]) -> str:
    """An entry as one line of JSON, in plain letters; `entry` may hold file names of any bytes.

    Control characters are escaped, also those that JSON would leave (DEL and U+0080 to U+009F): terminals obey them.
    """
    line = json.dumps(entry, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", line) + "\n"


def printable(text: str) -> str:
    """A text with its control characters escaped, as file names may have them: terminals obey them."""
    return "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter) == "Cc" else letter for letter in text)


def say_missing(shards: int) -> None:
    """Say where others have not done their part that so many shards are missing."""
    if shards:
        print(f"blip: this part is done; {shards} shards of others are missing", file=sys.stderr)


class Report:
    """Prints results and problems, shows how far the work is, and knows the exit code.

    As a context it shows a progress bar, if standard error is a terminal and there is more than one picture.
    """

    def __init__(self, as_json: bool, *, quiet: bool = False):
        self.json = as_json
        self.quiet = quiet and not as_json
        self.done = self.skipped = self.failed = 0
        self._found = 0  # problems of workers, which are told at the end
        self._progress: Progress | None = None

    def progress(self, total: int, command: str, place: Any = None, *, done: int = 0, name: str = "1/1") -> Self:
        """Begin with `total` pictures; the other arguments are those of `Progress`."""
        options: dict[str, Any] = {"done": done, "name": name, "show": total > 1, "events": self.json}
        self._progress = Progress(command, total, place, problems=lambda: self.failed + self._found, **options)
        return self

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)
            self._progress, self._found = None, 0

    def result(self, entry: dict[str, Any], *lines: str) -> None:
        """Print one result: `entry` with `--json`, else the lines."""
        if not self.quiet:
            self._print(json_line(entry) if self.json else "".join(f"{printable(line)}\n" for line in lines))

    def finished(self) -> None:
        """Count one picture as done."""
        self.done += 1
        self.step()

    def problem(self, image: str, error: Exception | str) -> None:
        """Say what is wrong with one picture (or what was typed for it) and count it as failed."""
        self.failed += 1
        message = in_one_line(error)
        if self.json:
            self._print(json_line({"image": image, "error": message}))
        else:
            line = message if image in message else f"{image}: {message}"
            tqdm.write(f"blip: {printable(line)}", file=sys.stderr)
        self.step()

    def exit_code(self, *, summary: bool = False) -> int:
        """1 if anything failed, else 0; sums up on standard error where asked, or where one of several failed."""
        if summary or (self.failed and self.done + self.failed > 1):
            counts = {"done": self.done, "done before": self.skipped, "failed": self.failed}
            said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "done")
            print(f"blip: {said}", file=sys.stderr)
        return 1 if self.failed else 0

    def _print(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout, end="")  # past the progress bar

    def step(self, count: int = 1) -> None:
        """Show that one more picture is dealt with, or `count`."""
        sys.stdout.flush()
        if self._progress is not None:
            self._progress.step(count)

    def worked(self, done: Done) -> None:
        """Show what a worker has just done, whose results and problems are told later."""
        self._found += done.problems
        if self._progress is not None:
            self._progress.step(done.pictures, done.worker)
