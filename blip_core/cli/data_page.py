"""The web page of `blip data --html`: counts, first examples with their pictures, and what cannot be used."""

from __future__ import annotations

import html
from typing import Any

from blip_core.datasets import Dataset, Picture
from blip_core.files import atomic_path
from blip_core.processing.web_pages import image_tag, web_page


def write_page(path: str, found: dict[str, Any], dataset: Dataset) -> None:
    """Write a self-contained page of what `blip data` found; the examples are the first ones of the data set."""
    rows = [(file["name"], file["form"]) for file in found["files"]]
    rows += [(name, f"{found[name]:,}") for name in ("examples", "pictures", "texts", "answers") if found[name]]
    rows += [(f"split {name}", f"{count:,}") for name, count in found["splits"].items()]
    cards = [_card(shown, dataset[at].images) for at, shown in enumerate(found["first"])]
    problems = [(one["where"], one["error"]) for one in found["problems"]]
    entries = "1 entry" if len(problems) == 1 else f"{len(problems):,} entries"
    title = f"{entries} cannot be used" if problems else "Everything can be used"
    body = (
        f"{_table(rows)}<h2>First examples</h2><div class='cards'>{''.join(cards) or '<p>none</p>'}</div>"
        f"<h2>{title}</h2>{_table(problems)}"
    )
    page = web_page(f"Data for {found['task']}", body)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _table(rows: list[tuple[str, str]]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _card(shown: dict[str, Any], pictures: tuple[Picture, ...]) -> str:
    lines = [*shown["texts"], *(f"→ {answer} ({weight:.2g})" for answer, weight in shown["answers"].items())]
    if shown["label"] is not None:
        lines.append(f"→ {bool(shown['label'])}")
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        f"<figure title='{html.escape(shown['key'], quote=True)}'><div class='pictures'>"
        f"{''.join(image_tag(one.load, one.name) for one in pictures)}</div><figcaption>{said}</figcaption></figure>"
    )
