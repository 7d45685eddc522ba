"""The values of a JSON array, one at a time: a file of any size takes the memory of its largest value."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip_core.files import open_regular

MAX_VALUE = 2**20
"""Letters of the longest value, as bytes of a line of JSON lines."""
PART = 2**20  # bytes that are read at once
SPACE = re.compile(r"[ \t\r\n]*")


def array_values(path: Path) -> Iterator[Any]:
    """Yield the values of a file that is a JSON array.

    Raises `ValueError` where the array stops being valid, and for a value of more than `MAX_VALUE` letters.
    """
    decode, value_at = codecs.getincrementaldecoder("utf-8-sig")().decode, json.JSONDecoder().raw_decode
    with open_regular(path) as file:
        text, at, whole = "", 0, False

        def more() -> None:
            nonlocal text, at, whole
            part = file.read(PART)
            text, at, whole = text[at:] + decode(part, not part), 0, not part

        def next_letter() -> str:
            """The next letter that is no space, to which `at` then points; "" at the end of the file."""
            nonlocal at
            while (at := SPACE.match(text, at).end()) == len(text) and not whole:  # type: ignore[union-attr]
                more()
            return text[at : at + 1]

        def expect(letters: str) -> str:
            nonlocal at
            if (letter := next_letter()) not in letters or not letter:
                raise ValueError(f"expected {' or '.join(letters)}, got {letter or 'the end'!r}")
            at += 1
            return letter

        try:
            expect("[")
            go_on = next_letter() != "]" or not expect("]")
            while go_on:
                next_letter()
                while True:
                    enough = whole or len(text) - at > MAX_VALUE + PART
                    try:
                        value, end = value_at(text, at)
                        behind = SPACE.match(text, end).end()  # type: ignore[union-attr]
                        if enough or text[behind : behind + 1] in (",", "]"):  # else a number may go on
                            break
                    except json.JSONDecodeError:
                        if enough:
                            raise
                    more()
                if end - at > MAX_VALUE:
                    raise ValueError(f"a value is longer than {MAX_VALUE} letters, which no example needs")
                at = end
                yield value
                go_on = expect(",]") == ","
            if letter := next_letter():
                raise ValueError(f"{letter!r} follows its end")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a valid JSON array ({error}); correct it or restore it.") from None
