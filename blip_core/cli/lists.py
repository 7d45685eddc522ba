"""Lists in files, one entry per line: answers to choose from, labels."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from blip_core.processing.processor import BlipProcessor


def read_list(option: str, file: str) -> list[str]:
    """The lines of a UTF-8 file, or for `-` of standard input; blank ones are left out, and a second one of the same.

    Raises `OSError` for a file that cannot be read, and `ValueError` for one that is no text or has no lines.
    """
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {file} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise ValueError(f"{option} {file} holds nothing; it needs one entry per line.")
    return found


def told_apart(texts: list[str], processor: BlipProcessor) -> list[str]:
    """The texts without those that are the same to the model as an earlier one, such as "Yes" after "yes".

    Warns of what is left out; raises `ValueError` for a text of which the model reads nothing.
    """
    first: dict[tuple[int, ...], str] = {}
    left_out = []
    for text, ids in zip(texts, processor(text=texts)["input_ids"], strict=True):
        if len(ids) == 2:
            raise ValueError(f"{text!r} has no letter that the model reads; leave it out.")
        if first.setdefault(tuple(ids), text) != text:
            left_out.append((text, first[tuple(ids)]))
    if left_out:
        text, same = left_out[0]
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        warnings.warn(f"{text!r} is left out{more}: to the model it is the same as {same!r}.", stacklevel=2)
    return list(first.values())
