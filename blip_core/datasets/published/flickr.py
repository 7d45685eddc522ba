"""Captions of Flickr's pictures: results.csv of Flickr30k, captions.txt and .token files of Flickr8k."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from blip_core.datasets.look import Item, Look, each, text_lines

HEADING = ("image_name", "comment_number", "comment")
RESULT = re.compile(r"\s*([^|]+?)\s*\|\s*\d+\s*(?:\|\s*|\s)(.*)")  # in one row of the published file a bar is missing
TOKEN = re.compile(r"(\S[^\t#]*?\.\w+)#\d+\t(.*)")


def is_results(look: Look) -> bool:
    """Fields between bars under the heading image_name| comment_number| comment."""
    return tuple(name.strip() for name in look.heading.split("|")) == HEADING


def read_results(look: Look) -> Iterator[Item]:
    """Yield an entry for each comment."""
    return each(islice(text_lines(look.path), 1, None), lambda line: _matched(RESULT, line, "name| number| comment"))


def is_captions(look: Look) -> bool:
    """Text under the heading image,caption that is no .csv: its captions may hold commas without quotes."""
    return look.suffix != ".csv" and look.heading.replace(" ", "").lower() == "image,caption"


def read_captions(look: Look) -> Iterator[Item]:
    """Yield an entry for each caption."""
    return each(islice(text_lines(look.path), 1, None), _caption)


def _caption(line: Any) -> dict[str, Any]:
    name, comma, text = line.partition(",")
    if not comma:
        raise ValueError(f"must be a picture's name, a comma and a caption, got {line!r:.80}")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"')
    return {"image": (name.strip(),), "caption": text}


def is_tokens(look: Look) -> bool:
    """Lines such as NAME.jpg#0, a tab, and a caption."""
    return TOKEN.fullmatch(look.heading) is not None


def read_tokens(look: Look) -> Iterator[Item]:
    """Yield an entry for each caption."""
    return each(text_lines(look.path), lambda line: _matched(TOKEN, line, "NAME.jpg#0, a tab and a caption"))


def _matched(pattern: re.Pattern[str], line: str, form: str) -> dict[str, Any]:
    found = pattern.fullmatch(line)
    if not found:
        raise ValueError(f"must be {form}, got {line!r:.80}")
    return {"image": (found[1],), "caption": found[2]}
