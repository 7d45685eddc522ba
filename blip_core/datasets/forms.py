"""The registry of forms that data sets have: published ones, and our own. To add one, `register` a row of it.

A row recognises its form by content. Specific forms are asked first, and no two of them take the same file; the general
ones take what is left, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from blip_core.datasets.look import Item, Look
from blip_core.lazy import Function


@dataclass(frozen=True)
class Form:
    """One form of data sets. Functions are callables, or a `Function` where they stand in another module.

    Attributes:
        name: In messages.
        recognise: `(look) -> bool`; must not raise but where the file cannot be read at all.
        read: `(look) -> items`, see `Item`; raises `ValueError` where nothing of the file can be used.
        task: The task that its entries are for, by name; "" if they say themselves.
        anywhere: Whether pictures are looked for in the folders below, too, as the form does not say where they lie.
        has_splits: Whether one file holds several splits, so that a user must choose.
        general: Whether it takes what no specific form takes.
    """

    name: str
    recognise: Callable[[Look], bool]
    read: Callable[[Look], Iterable[Item]]
    task: str = ""
    anywhere: bool = False
    has_splits: bool = False
    general: bool = False


FORMS: dict[str, Form] = {}
"""The rows by name."""


def register(form: Form) -> None:
    """Add a form. Raises `ValueError` if there is another of that name."""
    if FORMS.setdefault(form.name, form) is not form:
        raise ValueError(f"There is a form {form.name!r} already; choose another name.")


def recognise(look: Look) -> Form:
    """Return the form of a file or folder.

    Raises:
        ValueError: If it has none of the forms, naming those that were tried.
    """
    for form in sorted(FORMS.values(), key=lambda form: form.general):
        if form.recognise(look):
            return form
    raise ValueError(
        f"{look.path} has none of the forms that data may have; tried {', '.join(FORMS)}. docs/data.md shows each."
    )


def _row(name: str, module: str, what: str, **more: Any) -> Form:
    place = f"blip_core.datasets.{module}"
    return Form(name, Function(f"{place}:is_{what}"), Function(f"{place}:read_{what}"), **more)


for _form in (
    _row("COCO captions", "published.coco", "coco", task="caption", anywhere=True),
    _row("NoCaps", "published.coco", "nocaps", task="caption", anywhere=True),
    _row("RefCOCO", "published.coco", "refcoco", task="grounding", anywhere=True),
    _row("Karpathy's splits", "published.coco", "karpathy", task="caption", anywhere=True, has_splits=True),
    _row("VQA questions", "published.vqa_files", "questions", task="vqa", anywhere=True),
    _row("VQA annotations", "published.vqa_files", "annotations", task="vqa", anywhere=True),
    _row("A-OKVQA", "published.vqa_files", "aokvqa", task="vqa", anywhere=True),
    _row("Visual Genome QA", "published.vqa_files", "genome", task="vqa", anywhere=True),
    _row("NLVR2", "published.nlvr_lines", "nlvr", task="nlvr", anywhere=True),
    _row("Flickr30k results", "published.flickr", "results", task="caption", anywhere=True),
    _row("Flickr8k captions", "published.flickr", "captions", task="caption", anywhere=True),
    _row("Flickr tokens", "published.flickr", "tokens", task="caption", anywhere=True),
    _row("MSRVTT", "published.msrvtt", "msrvtt", task="caption", anywhere=True, has_splits=True),
    _row("MSRVTT test pairs", "published.msrvtt", "pairs", task="caption", anywhere=True),
    _row("MSRVTT test clips", "published.msrvtt", "clips", task="caption", anywhere=True),
    _row("Conceptual Captions", "published.web_data", "conceptual", task="caption", anywhere=True),
    _row("img2dataset", "published.web_data", "shards", task="caption"),
    _row("image folder", "published.image_folder", "image_folder", has_splits=True),
    _row("image folder's metadata", "published.image_folder", "metadata"),
    _row("saved data set", "published.arrow", "saved", has_splits=True),
    _row("loading script", "published.arrow", "script"),
    _row("tar shard", "plain_files", "tar", general=True),
    _row("Parquet", "plain_files", "parquet", general=True),
    _row("folder", "plain_files", "folder", general=True),
    _row("CSV", "plain_files", "csv", general=True),
    _row("JSON array", "plain_files", "array", general=True),
    _row("JSON lines", "plain_files", "json_lines", general=True),
):
    register(_form)
