"""A parity report as lines for the terminal, or as a self-contained HTML page."""

from __future__ import annotations

import html
import math
import re
from itertools import groupby

from blip_core.processing.web_pages import web_page
from conversion.parity import ParityReport, ParityRow

WIDTH, HEIGHT, MARGIN = 960, 300, 46
SHOWN = 10
"""How many of the gradients that differ are listed; the JSON has all."""

FLOOR = -9.0
"""A power of ten: smaller differences are drawn at the bottom."""

STACK = re.compile(r"(.+) (?:embedding|(?:layer|block) \d+)$")

STYLE = """
table{width:100%} td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #8884}
td,th{font-variant-numeric:tabular-nums} text{font-size:12px;fill:currentColor} text.bad{fill:#c1121f}
td:nth-child(-n+2),th:nth-child(-n+2),td:last-child,th:last-child{text-align:left}
"""


def shown_rows(report: ParityReport) -> list[ParityRow]:
    """Return the rows to show: of the gradients only the worst, or the worst few of those that failed."""
    worst = []
    for other in {row.other for row in report.rows}:
        gradients = [row for row in report.rows if row.kind == "gradients" and row.other == other]
        gradients.sort(key=lambda row: -row.relative)
        worst += gradients[:1] + [row for row in gradients[1:SHOWN] if not row.passed]
    return [row for row in report.rows if row.kind != "gradients" or row in worst]


def describe_parity(report: ParityReport) -> str:
    """Format a report as a table, the verdict at the end."""
    rows, lines = shown_rows(report), []
    width = max(len(row.stage) for row in rows)
    for index, row in enumerate(rows):
        if index == 0 or row.other != rows[index - 1].other:
            lines += [f"{report.one} and {row.other}"] * (row.other != report.other)
            lines.append(f"{'stage':<{width}}  {'kind':<10}{'absolute':>10}{'relative':>10}{'allowed':>10}")
        mark = "" if row.passed else "  FAILED"
        note = f"  {row.note}" if row.note else ""
        numbers = "".join(f"{_number(value):>10}" for value in (row.absolute, row.relative, row.tolerance))
        lines.append(f"{row.stage:<{width}}  {row.kind:<10}{numbers}{mark}{note}")
    return "\n".join([*lines, verdict(report)]) + "\n"


def _number(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def verdict(report: ParityReport) -> str:
    """Return the verdict as one sentence."""
    what = f"{report.head}, {report.dtype}: {report.one} and {report.other}"
    first = report.first_failure
    if first is None:
        return f"{what} agree in all {len(report.rows)} rows."
    with_whom = f" of {first.other}" * (first.other != report.other)
    return f"{what} DIFFER, first in {first.stage}{with_whom} ({first.kind}{': ' * bool(first.note)}{first.note})."


def page(report: ParityReport) -> str:
    """Format a report as an HTML page with a plot along the depth of the network."""
    kind = "good" if report.passed else "bad"
    body = [
        f"<p class={kind}><b>{html.escape(verdict(report))}</b></p>",
        "<p>Greatest difference of each stage, relative to its greatest value; the dashed line is the tolerance. "
        "Of the gradients, the table has the worst.</p>",
    ]
    for other in dict.fromkeys(row.other for row in report.rows):
        rows = [row for row in shown_rows(report) if row.other == other]
        body += [f"<h2>{html.escape(f'{report.one} and {other}')}</h2>"] * (other != report.other)
        body += [
            _plot([row for row in rows if row.kind == "values"]),
            "<table><tr><th>stage<th>kind<th>absolute<th>relative<th>allowed<th>note",
            *(
                f"<tr{'' if row.passed else ' class=bad'}><td>{html.escape(row.stage)}<td>{row.kind}"
                f"<td>{_number(row.absolute)}<td>{_number(row.relative)}<td>{_number(row.tolerance)}"
                f"<td>{html.escape(row.note)}"
                for row in rows
            ),
            "</table>",
        ]
    return web_page(f"Parity of {report.head}", "".join(body), STYLE)


def _plot(rows: list[ParityRow]) -> str:
    """Draw the stages on a logarithmic scale; failed ones are red, and the first of them is named."""
    if not rows:
        return ""
    step = (WIDTH - 2 * MARGIN) / max(len(rows) - 1, 1)
    points = [(MARGIN + index * step, _height(row.relative)) for index, row in enumerate(rows)]
    shapes = []
    for power in range(int(FLOOR), 1, 3):
        y = _height(10.0**power)
        shapes.append(f"<line x1={MARGIN} x2={WIDTH - MARGIN} y1={y:.1f} y2={y:.1f} stroke=#8884 />")
        label = f"1e{power}" if power > FLOOR else f"&lt;1e{power}"
        shapes.append(f"<text x=0 y={y + 4:.1f}>{label}</text>")
    allowed = [(x, _height(row.tolerance)) for (x, _), row in zip(points, rows, strict=True)]
    shapes.append(f'<polyline points="{_line(allowed)}" fill=none stroke=#57606a stroke-dasharray=5 />')
    shapes.append(f'<polyline points="{_line(points)}" fill=none stroke=#0969da />')
    for (x, y), row in zip(points, rows, strict=True):
        title = html.escape(f"{row.stage}: {row.relative:.1e}")
        colour = "#0969da" if row.passed else "#c1121f"
        shapes.append(f"<circle cx={x:.1f} cy={y:.1f} r=4 fill={colour}><title>{title}</title></circle>")
    first = next((index for index, row in enumerate(rows) if not row.passed), None)
    if first is not None:
        x, y = points[first]
        side = "start" if x < WIDTH / 2 else "end"
        shapes.append(
            f"<text x={x:.1f} y={y - 10:.1f} text-anchor={side} class=bad>{html.escape(rows[first].stage)}</text>"
        )
    for index, (label, begin, end) in enumerate(_sections(rows)):
        left, right = MARGIN + (begin - 0.5) * step + 1, MARGIN + (end - 0.5) * step - 1
        shapes.append(
            f"<rect x={left:.1f} y={MARGIN / 2} width={right - left:.1f} height={HEIGHT - 1.5 * MARGIN:.1f} "
            'fill="#0969da" opacity=.06 />'
        )
        y = HEIGHT - MARGIN + (34 if index % 2 else 18)  # in two rows, or long names would overlap
        shapes.append(f"<text x={(left + right) / 2:.1f} y={y} text-anchor=middle>{html.escape(label)}</text>")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(shapes)}</svg>'


def _line(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _sections(rows: list[ParityRow]) -> list[tuple[str, int, int]]:
    """Return the stacks of layers along the plot: name, first row, and the row after the last."""
    names = [re.sub(r"^patch( embedding)$", r"vision\1", row.stage) for row in rows]
    stacks = [found[1] if (found := STACK.match(name)) else "" for name in names]
    runs = [(label, [index for index, _ in run]) for label, run in groupby(enumerate(stacks), key=lambda item: item[1])]
    return [(label, places[0], places[-1] + 1) for label, places in runs if label]


def _height(relative: float) -> float:
    """Return the y of a difference: 1 and more at the top, `FLOOR` and less at the bottom."""
    power = math.log10(relative) if 0 < relative < math.inf else (FLOOR if relative == 0 else 0.0)
    share = (min(max(power, FLOOR), 0.0) - FLOOR) / -FLOOR
    return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
