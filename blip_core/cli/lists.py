"""Lists in files and on standard input, one entry per line: pictures, answers to choose from, labels."""

from __future__ import annotations

import codecs
import os
import re
import sys
from pathlib import Path

LONGEST = 4096
"""Bytes of the longest path that systems take; what is longer between two NUL bytes is no list of names."""


def read_input() -> bytes:
    """All of standard input, nothing where it is closed."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def read_list(option: str, file: str) -> list[str]:
    """The lines of a text file, or for `-` of standard input; blank ones are left out, and a second one of the same.

    Raises `OSError` for a file that cannot be read, and `ValueError` for one that is no text or has no lines.
    """
    data = read_input() if file == "-" else Path(file).expanduser().read_bytes()
    try:
        lines = data.decode(encoding_of(data)).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{option} {file} is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8."
        ) from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise ValueError(f"{option} {file} holds nothing; it needs one entry per line.")
    return found


def encoding_of(data: bytes) -> str:
    """The encoding that a text's byte-order mark tells, UTF-8 without one."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def decode_list(data: bytes, what: str) -> list[str]:
    """The names in a list: one per line, or as `find -print0` writes them. Names may be of any bytes.

    Raises `ValueError` for what is neither, such as UTF-16 without a byte-order mark, in which each letter would be
    taken for a name.
    """
    if encoding_of(data) == "utf-16":
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    by_nul = b"\0" in data
    names = data.removesuffix(b"\0").split(b"\0") if by_nul else data.splitlines()
    strange = (
        any(not 0 < len(name) <= LONGEST for name in names) or re.search(rb"\0[\r\n]\0", data)
        if by_nul
        else re.search(rb"[\x01-\x08\x0e-\x1f]", data)
    )
    if strange:
        raise ValueError(f"{what} is neither text with a name per line nor separated by NUL bytes; save it as UTF-8.")
    return [os.fsdecode(name) for name in names if name.strip()]
