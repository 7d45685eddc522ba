"""A parity report for people: lines for the terminal, and one page that needs nothing else."""

from __future__ import annotations

import html
import math

from conversion.parity import ParityReport, ParityRow

WIDTH, HEIGHT, MARGIN = 960, 300, 46
FLOOR = -9.0
"""Powers of ten: smaller differences are drawn at the bottom."""

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#1b1f24}
h1{font-size:1.4em}.pass{color:#0a7d38}.fail{color:#c1121f}table{border-collapse:collapse;width:100%}
td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #e6e8eb;font-variant-numeric:tabular-nums}
td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}td:last-child{overflow-wrap:anywhere}
svg{width:100%;height:auto}text{font-size:12px;fill:#57606a}
"""


def shown_rows(report: ParityReport) -> list[ParityRow]:
    """The rows that a person wants to see: of gradients the worst one and those that failed."""
    gradients = [row for row in report.rows if row.kind == "gradients"]
    worst = max(gradients, key=lambda row: row.relative, default=None)
    return [row for row in report.rows if row.kind != "gradients" or row is worst or not row.passed]


def describe_parity(report: ParityReport) -> str:
    """A report as a table of lines, the verdict at the end."""
    rows = shown_rows(report)
    width = max(len(row.stage) for row in rows)
    lines = [f"{'stage':<{width}}  {'kind':<10}{'absolute':>10}{'relative':>10}{'allowed':>10}"]
    for row in rows:
        mark = "" if row.passed else "  FAILED"
        note = f"  {row.note}" if row.note else ""
        numbers = f"{row.absolute:10.1e}{row.relative:10.1e}{row.tolerance:10.0e}"
        lines.append(f"{row.stage:<{width}}  {row.kind:<10}{numbers}{mark}{note}")
    return "\n".join([*lines, verdict(report)]) + "\n"


def verdict(report: ParityReport) -> str:
    """One sentence."""
    what = f"{report.head}, {report.dtype}: {report.one} and {report.other}"
    first = report.first_failure
    if first is None:
        return f"{what} agree in all {len(report.rows)} rows."
    return f"{what} DIFFER, first in {first.stage} ({first.kind}{': ' * bool(first.note)}{first.note})."


def page(report: ParityReport) -> str:
    """A report as a self-contained HTML page with a plot along the depth of the network."""
    kind = "pass" if report.passed else "fail"
    body = [
        f"<h1>Parity of {html.escape(report.head)}</h1><p class={kind}><b>{html.escape(verdict(report))}</b></p>",
        _plot([row for row in report.rows if row.kind == "values"]),
        "<p>Greatest difference of each stage, relative to its greatest number; the dashed line is the tolerance.</p>",
        "<table><tr><th>stage<th>kind<th>absolute<th>relative<th>allowed<th>note",
        *(
            f"<tr{'' if row.passed else ' class=fail'}><td>{html.escape(row.stage)}<td>{row.kind}<td>{row.absolute:.1e}"
            f"<td>{row.relative:.1e}<td>{row.tolerance:.0e}<td>{html.escape(row.note)}"
            for row in shown_rows(report)
        ),
        "</table>",
    ]
    return f"<!doctype html><meta charset=utf-8><title>Parity</title><style>{STYLE}</style>{''.join(body)}\n"


def _plot(rows: list[ParityRow]) -> str:
    """Points over the stages on a logarithmic scale, the failed ones red."""
    if not rows:
        return ""
    step = (WIDTH - 2 * MARGIN) / max(len(rows) - 1, 1)
    points = [(MARGIN + index * step, _height(row.relative)) for index, row in enumerate(rows)]
    allowed = _height(rows[0].tolerance)
    shapes = [
        f"<line x1={MARGIN} x2={WIDTH - MARGIN} y1={allowed:.1f} y2={allowed:.1f} stroke=#57606a stroke-dasharray=5 />"
    ]
    for power in range(int(FLOOR), 1, 3):
        y = _height(10.0**power)
        shapes.append(f"<line x1={MARGIN} x2={WIDTH - MARGIN} y1={y:.1f} y2={y:.1f} stroke=#e6e8eb />")
        shapes.append(f"<text x=4 y={y + 4:.1f}>1e{power}</text>")
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    shapes.append(f'<polyline points="{line}" fill=none stroke=#0969da />')
    for (x, y), row in zip(points, rows, strict=True):
        title = html.escape(f"{row.stage}: {row.relative:.1e}")
        colour = "#0969da" if row.passed else "#c1121f"
        shapes.append(f"<circle cx={x:.1f} cy={y:.1f} r=4 fill={colour}><title>{title}</title></circle>")
    ends = (("start", MARGIN, rows[0]), ("end", WIDTH - MARGIN, rows[-1]))
    shapes += [
        f"<text x={x} y={HEIGHT - 8} text-anchor={side}>{html.escape(row.stage)}</text>" for side, x, row in ends
    ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(shapes)}</svg>'


def _height(relative: float) -> float:
    """The y of a difference: 1 and more at the top, `FLOOR` and less at the bottom."""
    power = math.log10(relative) if 0 < relative < math.inf else (FLOOR if relative == 0 else 0.0)
    share = (min(max(power, FLOOR), 0.0) - FLOOR) / -FLOOR
    return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
