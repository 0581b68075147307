# SPDX-License-Identifier: Apache-2.0
"""Writes the page: of each report its picture and its text. Standard library only."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from .drawing import draw
from .reports import Report, read_reports

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>@TITLE@</title><style>
body { font: 13px system-ui, sans-serif; margin: 16px; color: #222; background: #fff }
h1 { font-size: 17px } h2 { font-size: 14px; margin: 28px 0 4px }
section { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start }
.picture { overflow: auto; max-height: 80vh; border: 1px solid #ddd } pre { margin: 0; white-space: pre-wrap }
text { text-anchor: middle; font-size: 11px } .head { font-weight: 600; font-size: 12px }
.name { font-weight: 600 } .small { fill: #555; font-size: 10px }
.lane { stroke: #ccc } .task { fill: #f4f6f8; stroke: #99a } .party { fill: #fde8e6; stroke: #c0392b }
.order { fill: #2a7 } .lack { fill: #c0392b } .lacking { fill: #c0392b; font-weight: 600 }
.line { fill: none; stroke-width: 1.5 } .order.line { stroke: #2a7 }
.lack.line { stroke: #c0392b; stroke-dasharray: 6 4 }
</style></head><body><h1>@TITLE@</h1>
<p>A column is a stream; time runs downwards, in the order of the program's calls. Green: what follows in the lane
of the dot comes after what the arrow comes from. What the program has seen to be complete comes before all that it
starts below that dot. Red: the two that use the same memory, and the order that is missing.</p>
@REPORTS@
</body></html>
"""


def render(reports: Sequence[Report]) -> str:
    """Returns a page that needs nothing else."""
    title = "No races" if not reports else f"{len(reports)} race report{'s' if len(reports) > 1 else ''}"
    parts = [_section(number, report) for number, report in enumerate(reports, 1)]
    return _PAGE.replace("@TITLE@", title).replace("@REPORTS@", "\n".join(parts))


def write_page(folder: Path, page: Path) -> int:
    """Writes the page of all reports in a folder; returns how many there are. Raises ReportError, OSError."""
    reports = read_reports(folder)
    page.write_text(render(reports), encoding="utf-8")
    return len(reports)


def _section(number: int, report: Report) -> str:
    picture = f'<div class="picture">{draw(report)}</div>' if report.first and report.second else ""
    text = html.escape(report.text)
    return f"<h2>{number}: process {report.pid}</h2><section>{picture}<pre>{text}</pre></section>"
