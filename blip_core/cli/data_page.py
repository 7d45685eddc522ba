"""The web page of `blip data --html`: counts, first examples with their pictures, and what cannot be used."""

from __future__ import annotations

import html
from typing import Any

from blip_core.datasets import Dataset, Picture
from blip_core.files import atomic_path
from blip_core.processing.thumbnails import image_tag


def write_page(path: str, found: dict[str, Any], dataset: Dataset) -> None:
    """Write a self-contained page of what `blip data` found; the examples are the first ones of the data set."""
    rows = [(file["name"], file["form"]) for file in found["files"]]
    rows += [(name, f"{found[name]:,}") for name in ("examples", "pictures", "texts", "answers") if found[name]]
    rows += [(f"split {name}", f"{count:,}") for name, count in found["splits"].items()]
    cards = [_card(shown, dataset[at].images) for at, shown in enumerate(found["first"])]
    problems = [(one["where"], one["error"]) for one in found["problems"]]
    page = PAGE.format(
        task=html.escape(found["task"]),
        counts=_table(rows),
        cards="".join(cards) or "<p>none</p>",
        title=f"{len(problems):,} entries cannot be used" if problems else "Everything can be used",
        problems=_table(problems),
    )
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


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Data</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 24px auto; padding: 0 16px }}
h1 {{ font-size: 24px }} h2 {{ font-size: 18px; margin: 32px 0 12px }}
table {{ border-collapse: collapse; overflow-wrap: anywhere }}
th, td {{ padding: 4px 16px 4px 0; text-align: left; font-weight: normal; vertical-align: top }} th {{ color: #666 }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 16px }}
figure {{ margin: 0; padding: 10px; border: 1px solid #ddd; border-radius: 6px; overflow-wrap: anywhere }}
.pictures {{ min-height: 128px; display: flex; gap: 8px; align-items: center; justify-content: center }}
.pictures img {{ max-width: 100%; max-height: 128px }} .bad {{ color: #a33; font-size: 13px }}
figure p {{ margin: 6px 0 0 }}
</style>
<h1>Data for {task}</h1>
{counts}
<h2>First examples</h2>
<div class="cards">{cards}</div>
<h2>{title}</h2>
{problems}
</html>
"""
