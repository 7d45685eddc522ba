"""The report of a run of CapFilt: counts, histograms of scores, and a page to judge the threshold by."""

from __future__ import annotations

import hashlib
import html
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.capfilt.calibration import Curve, Thresholds
from blip_core.capfilt.chart import BINS, draw_curves, draw_scores
from blip_core.capfilt.items import Item, Line
from blip_core.datasets import Picture
from blip_core.files import shared_path
from blip_core.processing.web_pages import data_uri, image_tag, web_page

SOURCES = ("web", "synthetic")
SAMPLE = 12  # captions of each source, kept and dropped
REASONS = {
    "no match": "the filter finds no match",
    "not the best": "another synthetic caption of the picture scores higher",
    "repeated": "another caption of the picture says the same",
    "empty": "no words",
    "too long": "too long for a caption",
    "duplicate": "the same picture came before",
    "near-duplicate": "a picture that looks the same came before",
    "unreadable": "the picture cannot be read",
    "unusable": "entries of the input that cannot be used",
}
BAD = ("too long", "unreadable", "unusable")
"""Reasons that mean broken input; the others are the normal work of CapFilt."""


@dataclass(frozen=True)
class Shown:
    """A caption of the sample, and the key of its picture."""

    key: str
    caption: str
    source: str
    score: float


class Summary:
    """Counts of lines. Its memory grows with the number of broken inputs only.

    `curves` are those by which `thresholds` were chosen. The sample is chosen by a hash of picture and caption, so that
    interrupted and resumed runs show the same one.
    """

    def __init__(self, thresholds: Thresholds, curves: Mapping[str, Curve] | None = None):
        self.thresholds, self.curves = thresholds, curves or {}
        self.pictures = 0  # with at least one kept caption
        self.kept: Counter[str] = Counter()  # captions by source
        self.dropped: Counter[tuple[str, str]] = Counter()  # by source ("" for pictures and entries) and reason
        self.scores: dict[str, np.ndarray] = {source: np.zeros(BINS, np.int64) for source in SOURCES}
        self.problems: list[tuple[str, str]] = []
        self._sample: dict[tuple[bool, str], dict[bytes, Shown]] = {}

    def add(self, kept: Sequence[Line], dropped: Sequence[Line]) -> None:
        """Count lines as the output has them."""
        self.pictures += len(kept)
        for line in kept:
            for caption, source, score in zip(line["caption"], line["source"], line["score"], strict=True):
                self.kept[source] += 1
                self._see(True, line, Shown(line["key"], caption, source, score))
        for line in dropped:
            source, reason = line.get("source", ""), line["reason"]
            self.dropped[source, reason] += 1
            if reason in BAD:
                self.problems.append((line["image"] if "image" in line else line["key"], line["detail"]))
            elif reason == "no match":
                self._see(False, line, Shown(line["key"], line["caption"], source, line["score"]))

    def _see(self, kept: bool, line: Line, shown: Shown) -> None:
        self.scores[shown.source][min(int(shown.score * BINS), BINS - 1)] += 1
        sample = self._sample.setdefault((kept, shown.source), {})
        sample[hashlib.blake2b(f"{line['hash']} {shown.caption}".encode(), digest_size=16).digest()] = shown
        if len(sample) > SAMPLE:
            del sample[max(sample)]

    def counts(self) -> dict[str, Any]:
        """Count pictures and captions.

        `pictures`: how many kept at least one caption; dropped ones by reason. `web`, `synthetic`: captions, `kept`
        and dropped by reason.
        """
        found: dict[str, Any] = {"pictures": {"kept": self.pictures}}
        found |= {source: {"kept": self.kept[source]} for source in SOURCES}
        for (source, reason), count in sorted(self.dropped.items()):
            found[source or "pictures"][reason] = count
        return found

    def sample(self, kept: bool) -> list[Shown]:
        """Return some captions of both sources that were kept, or did not match, highest scores first."""
        found = [shown for source in SOURCES for shown in self._sample.get((kept, source), {}).values()]
        return sorted(found, key=lambda shown: (-shown.score, shown.key, shown.caption))


def write_report(folder: Path, summary: Summary, items: Iterable[Item]) -> Path:
    """Write scores.png and the self-contained report.html; return the path of the latter."""
    shown = {one.key for kept in (True, False) for one in summary.sample(kept)}
    pictures = {item.key: item.picture for item in items if item.key in shown}
    chart = io.BytesIO()
    draw_scores(summary.scores, summary.thresholds).save(chart, "PNG", optimize=True)
    with shared_path(folder / "scores.png") as temporary:
        temporary.write_bytes(chart.getvalue())
    page = folder / "report.html"
    with shared_path(page) as temporary:
        temporary.write_text(_page(summary, chart.getvalue(), pictures), encoding="utf-8", errors="backslashreplace")
    return page


def _page(summary: Summary, chart: bytes, pictures: Mapping[str, Picture]) -> str:
    counts = summary.counts()
    rows = ["kept", *(reason for reason in REASONS if any(reason in counts[column] for column in counts))]
    cells = "".join(
        f"<tr><th>{REASONS.get(row, row)}</th>{''.join(_cell(counts[column], row) for column in counts)}</tr>"
        for row in rows
    )
    columns = "".join(f"<th>{name}</th>" for name in ("pictures", "web captions", "synthetic captions"))
    parts = []
    for kept, title in ((True, "Kept"), (False, "Dropped: the filter finds no match")):
        cards = "".join(_card(shown, pictures) for shown in summary.sample(kept))
        parts.append(f"<h2>{title}</h2><div class='cards'>{cards or '<p>none</p>'}</div>")
    head = f"<thead><tr><th></th>{columns}</tr></thead>"
    histograms = "histograms of the scores of web and synthetic captions"
    body = (
        "<p>Captions are kept where the filter's probability that they match their picture is at least "
        f"{_listed(summary.thresholds)}.</p><table class='numbers'>{head}<tbody>{cells}</tbody></table>"
        f"<h2>Scores</h2><img class='chart' src='{data_uri(chart, 'png')}' alt='{histograms}'>"
        f"{_calibration(summary.curves)}{''.join(parts)}"
    )
    return web_page("CapFilt", body, STYLE)


def _listed(thresholds: Thresholds) -> str:
    if len(set(thresholds.values())) == 1:
        return f"{next(iter(thresholds.values())):g}"
    return " and ".join(f"{value:g} for {source} captions" for source, value in thresholds.items())


def _calibration(curves: Mapping[str, Curve]) -> str:
    """The part of the page on how thresholds were chosen, nothing where they were given."""
    if not curves:
        return ""
    chart = io.BytesIO()
    draw_curves(curves).save(chart, "PNG", optimize=True)
    rows = "".join(
        f"<tr><th>{source}</th><td>{one.threshold:g}</td><td>{one.precision:.3f}</td><td>{one.recall:.3f}</td>"
        f"<td>{one.pairs:,}</td><td>{one.matches:,}</td></tr>"
        for source, one in curves.items()
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "threshold", "precision", "recall", "labelled", "match"))
    image = f"<img class='chart' src='{data_uri(chart.getvalue(), 'png')}' alt='precision and recall by threshold'>"
    table = f"<table class='numbers'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h2>Thresholds, learned from the labelled sample</h2>{table}{image}"


def _cell(column: Mapping[str, int], row: str) -> str:
    return f"<td>{column[row]:,}</td>" if row in column else "<td></td>"


def _card(shown: Shown, pictures: Mapping[str, Picture]) -> str:
    picture = pictures.get(shown.key)
    tag = image_tag(picture.load, shown.key) if picture else "<div class='pale'>no longer in the input</div>"
    return (
        f"<figure title='{html.escape(shown.key, quote=True)}'><div class='pictures'>{tag}</div>"
        f"<figcaption>{html.escape(shown.caption)}</figcaption>"
        f"<p class='pale {shown.source}'>{shown.source} <b>{shown.score:.4f}</b></p></figure>"
    )


STYLE = """
.numbers th, .numbers td { text-align: right; font-variant-numeric: tabular-nums }
.numbers th:first-child { text-align: left }
thead th { border-bottom: 1px solid #8886 } .chart { width: 100% } figure p { font-size: 13px }
.web { border-left: 4px solid #3b6fb6; padding-left: 6px }
.synthetic { border-left: 4px solid #c0702a; padding-left: 6px }
"""
