# SPDX-License-Identifier: Apache-2.0
"""Draws one report as SVG: a column a stream, time downwards in the order of calls, an arrow a wait.

Standard library only.
"""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass

from .reports import PROGRAM, Gap, Report, Step, Task, Wait

MAX_LANES = 8
_WIDTH, _GAP, _HEIGHT, _ROW, _TOP = 190, 26, 34, 50, 40  # pixels: of a box, between boxes, of a row, of the heads
_LETTERS = 28  # that fit into a box

_ARROW = (
    '<marker id="{name}" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z" class="{kind}"/></marker>'
)
_ARROWS = f"<defs>{_ARROW.format(name='head', kind='order')}{_ARROW.format(name='missing', kind='lack')}</defs>"


@dataclass(frozen=True)
class _Rows:
    """Holds what is drawn: steps, one a row, and the columns of their lanes."""

    steps: tuple[Step, ...]
    columns: dict[int, int]
    names: dict[int, str]

    def x(self, lane: int) -> int:
        """Returns the middle of a lane."""
        return self.columns[lane] * (_WIDTH + _GAP) + _WIDTH // 2 + 8

    def y(self, row: int) -> int:
        """Returns the middle of a row."""
        return _TOP + row * _ROW + _ROW // 2

    def row_of(self, place: tuple[int, int]) -> int | None:
        """Returns where a task is drawn."""
        tasks = (row for row, step in enumerate(self.steps) if isinstance(step, Task) and step.place == place)
        return next(tasks, None)


def draw(report: Report) -> str:
    """Returns the picture of a report that has two parties."""
    assert report.first is not None and report.second is not None
    rows = _arrange(report, report.first, report.second)
    width = len(rows.columns) * (_WIDTH + _GAP) + 16
    height = rows.y(len(rows.steps)) - _ROW // 2 + 8
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">', _ARROWS]
    for lane, name in rows.names.items():
        parts.append(_text(rows.x(lane), 18, name, "head"))
        parts.append(f'<line x1="{rows.x(lane)}" y1="{_TOP}" x2="{rows.x(lane)}" y2="{height - 8}" class="lane"/>')
    parts += [_arrow(rows, row, step) for row, step in enumerate(rows.steps) if isinstance(step, Wait)]
    parties = {report.first.place: report.first, report.second.place: report.second}
    for row, step in enumerate(rows.steps):
        if isinstance(step, Task):
            parts.append(_box(rows.x(step.lane), rows.y(row), parties.get(step.place, step)))
        elif isinstance(step, Gap):
            parts.append(_text(width // 2, rows.y(row), f"{step.num_steps} more", "small"))
    return "\n".join([*parts, _missing(rows, report.first, report.second), "</svg>"])


def _arrange(report: Report, first: Task, second: Task) -> _Rows:
    """Chooses the lanes: those of both parties, the program's, then the busiest; drops the steps of others."""
    steps = list(report.steps)
    places = {step.place for step in steps if isinstance(step, Task)}
    if first.place not in places:  # long ago, or a host access, which has no history
        steps = [first, *([Gap(0)] if steps else []), *steps]
    if second.place not in places:
        steps.append(second)
    busy = Counter(step.lane for step in steps if not isinstance(step, Gap))
    lanes = [first.lane, second.lane, *(lane for lane, _ in busy.most_common())]
    chosen = list(dict.fromkeys(lanes))[:MAX_LANES]
    columns = {lane: column for column, lane in enumerate(sorted(chosen))}
    kept = tuple(step for step in steps if isinstance(step, Gap) or step.lane in columns)
    names = {step.lane: step.stream for step in reversed(steps) if isinstance(step, Task)}
    return _Rows(kept, columns, {lane: _name(lane, names) for lane in columns})


def _name(lane: int, names: dict[int, str]) -> str:
    return "the program" if lane == PROGRAM else names.get(lane, f"stream {lane}")


def _box(x: int, y: int, task: Task) -> str:
    left, top = x - _WIDTH // 2, y - _HEIGHT // 2
    kind = "party" if task.does else "task"
    below = f"{task.does}, {task.at}" if task.does else task.at
    return (
        f"<g><title>{html.escape(f'{task.name}: {task.at}')}</title>"
        f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" class="{kind}"/>'
        + _text(x, y - 3, _short(task.name), "name")
        + _text(x, y + 11, _short(below), "small")
        + "</g>"
    )


def _short(text: str) -> str:
    """Keeps the end, which tells more of a path than its beginning."""
    return text if len(text) <= _LETTERS else "…" + text[-_LETTERS + 1 :]


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{html.escape(text)}</text>'


def _arrow(rows: _Rows, row: int, wait: Wait) -> str:
    """Draws a wait: from each lane waited for, at its last task that counts, to the lane that waits."""
    x, y = rows.x(wait.lane), rows.y(row)
    parts = [f'<circle cx="{x}" cy="{y}" r="4" class="order"/>']
    for lane, index in wait.sources:
        if lane in rows.columns:
            at = rows.row_of((lane, index))
            begin = _TOP if at is None else rows.y(at) + _HEIGHT // 2
            parts.append(
                f'<path d="M{rows.x(lane)},{begin} L{x + (-6 if rows.x(lane) < x else 6)},{y}" '
                'class="order line" marker-end="url(#head)"/>'
            )
    return "".join(parts)


def _missing(rows: _Rows, first: Task, second: Task) -> str:
    begin, end = rows.row_of(first.place), rows.row_of(second.place)
    assert begin is not None and end is not None
    (x1, y1), (x2, y2) = (rows.x(first.lane), rows.y(begin)), (rows.x(second.lane), rows.y(end))
    side = (_WIDTH // 2) * (1 if x2 > x1 else -1)
    y1, y2 = y1 + _HEIGHT // 2, y2 - _HEIGHT // 2
    middle = _text((x1 + x2) // 2, (y1 + y2) // 2 - 4, "not ordered", "lacking")
    curve = (
        f"M{x1 + side // 2},{y1} C{x1 + side},{(y1 + y2) // 2} {x2 - side},{(y1 + y2) // 2} {x2 - side // 2},{y2}"
    )
    return f'<path d="{curve}" class="lack line" marker-end="url(#missing)"/>{middle}'
