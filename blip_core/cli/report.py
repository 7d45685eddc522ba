"""What is said on the terminal: results, problems, progress, a summary."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any, Self

from tqdm import tqdm

from blip_core.jobs.read_ahead import in_one_line


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
        self._bar: tqdm | None = None

    def progress(self, total: int) -> Self:
        """Begin with `total` pictures."""
        self._bar = tqdm(total=total, unit="picture", disable=None if total > 1 else True)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

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
        if self._bar is not None:
            self._bar.update(count)
