"""The page at the end of a run: what the model said before and says now, with the pictures, and the loss curves."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from blip_core.files import atomic_path
from blip_core.processing.web_pages import image_tag, web_page
from blip_core.training.before_after import Said
from blip_core.training.logs import LOG

PAGE_NAME = "report.html"
WIDTH, HEIGHT, MARGIN = 960, 240, 50
COLOURS = {"training": "#3b6fb6", "validation": "#c0702a"}


def write_page(folder: Path, title: str, lines: Sequence[str], said: Sequence[Said]) -> Path:
    """Write a self-contained page on a run into its folder and return its path.

    Args:
        folder: The folder, with the run's log.
        title: Its heading.
        lines: What is said of the whole run, in sentences.
        said: Pictures, and what the model said of them.
    """
    told = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    cards = "".join(map(_card, said)) or "<p>none</p>"
    chart = draw_curves(read_curves(folder / LOG))
    body = f"{told}<h2>Loss</h2>{chart}<h2>Before and now</h2><div class='cards'>{cards}</div>"
    path = folder / PAGE_NAME
    with atomic_path(path) as temporary:
        temporary.write_text(web_page(title, body, STYLE), encoding="utf-8", errors="backslashreplace")
    return path


def read_curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and losses of training and of validation from a log."""
    curves: dict[str, list[tuple[int, float]]] = {"training": [], "validation": []}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        name = "validation" if "validation" in entry else "training"
        loss = entry.get("validation", entry).get("loss")
        if loss is not None:
            curves[name].append((entry["step"], loss))
    return curves


def draw_curves(curves: dict[str, list[tuple[int, float]]]) -> str:
    """Draw curves of a loss over steps as SVG."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    last, top = max(max(step for step, _ in points), 1), max(max(loss for _, loss in points), 1e-9)

    def place(step: int, loss: float) -> str:
        x = MARGIN + step / last * (WIDTH - 2 * MARGIN)
        return f"{x:.1f},{HEIGHT - MARGIN - loss / top * (HEIGHT - 2 * MARGIN):.1f}"

    parts = []
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[name]
        parts.append(f"<polyline fill='none' stroke='{colour}' stroke-width='2' points='")
        parts.append(" ".join(place(*point) for point in curve) + "'/>")
        parts.append(
            f"<text x='{WIDTH - MARGIN}' y='{20 + 18 * number}' text-anchor='end' fill='{colour}'>{name}</text>"
        )
    axis = f"<text x='{MARGIN}' y='20'>loss, up to {top:.3g}</text>"
    axis += f"<text x='{WIDTH - MARGIN}' y='{HEIGHT - 20}' text-anchor='end'>step {last}</text>"
    frame = f"<path d='M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}' fill='none' stroke='#bbb'/>"
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='loss'>{frame}{axis}{''.join(parts)}</svg>"


def _card(said: Said) -> str:
    pictures = "".join(image_tag(picture.load, picture.name) for picture in said.example.images)
    asked = "" if said.truths == said.example.texts else f"<p>{html.escape(' | '.join(said.example.texts))}</p>"
    rows = (("before", said.before), ("now", said.after))
    told = "".join(
        f"<tr class='{'good' if said.right(text) else 'bad'}'><th>{name}</th><td>{html.escape(text or '-')}</td></tr>"
        for name, text in rows
    )
    truth = f"<tr><th>truth</th><td>{html.escape(' | '.join(said.truths))}</td></tr>"
    key = html.escape(said.example.key, quote=True)
    return f"<figure title='{key}'><div class='pictures'>{pictures}</div>{asked}<table>{told}{truth}</table></figure>"


STYLE = "text { fill: currentColor } .good td { font-weight: 600 }"
