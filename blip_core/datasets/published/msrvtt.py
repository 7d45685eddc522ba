"""MSRVTT: sentences about videos, of which the frame in the middle is the picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from typing import Any

from blip_core.datasets.look import Item, Look, each, field, numbered, text_lines
from blip_core.datasets.plain_files import json_objects

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".jpg", ".png")
"""Of videos, or of pictures that were made of them, in the order in which they are looked for."""
PAIRS = ("key", "vid_key", "video_id", "sentence")


def is_msrvtt(look: Look) -> bool:
    """One object with `videos` and `sentences`."""
    return look.list_of("videos") is not None and look.list_of("sentences") is not None


def read_msrvtt(look: Look) -> Iterator[Item]:
    """Yield an entry for each sentence, with the split of its video."""
    videos = (video for video in look.list_of("videos") or [] if isinstance(video, dict))
    splits = {str(video.get("video_id")): video.get("split") for video in videos}

    def make(sentence: Any) -> dict[str, Any]:
        name = field(sentence, "video_id", str)
        if name not in splits:
            raise ValueError(f"names the video {name!r:.80}, which the file does not list")
        return {**_video(name), "caption": sentence.get("caption"), "split": splits[name]}

    return each(numbered(look.list_of("sentences") or []), make)


def is_pairs(look: Look) -> bool:
    """The 1,000 pairs for testing retrieval: CSV with the columns key, vid_key, video_id, sentence."""
    return tuple(look.heading.split(",")) == PAIRS


def read_pairs(look: Look) -> Iterator[Item]:
    """Yield an entry for each pair."""
    return each(islice(text_lines(look.path), 1, None), _pair)


def is_clips(look: Look) -> bool:
    """The original's JSON lines of the same pairs, each with a `clip_name` and a `caption`."""
    return {"clip_name", "caption"} <= look.entry.keys() and "image" not in look.entry


def read_clips(look: Look) -> Iterator[Item]:
    """Yield an entry for each pair."""
    rows = numbered(look.array()) if look.opening == "[" else json_objects(look.path)
    return each(rows, lambda row: {**_video(field(row, "clip_name", str)), "caption": row.get("caption")})


def _pair(line: str) -> dict[str, Any]:
    row = next(csv.reader([line]), [])
    if len(row) != len(PAIRS):
        raise ValueError(f"must have {len(PAIRS)} fields, got {len(row)}")
    return {**_video(row[2]), "caption": row[3]}


def _video(name: str) -> dict[str, Any]:
    return {"image": tuple(f"{name}{suffix}" for suffix in SUFFIXES), "image_id": name}
