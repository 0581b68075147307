# SPDX-License-Identifier: Apache-2.0
"""Reads race reports with what the program did before them, as the checker writes them to EMULATOR_RACE_LOG.

Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = -1  # the lane of the program itself; the others are streams


class ReportError(ValueError):
    """Reports that a file is no report of the checker; the message names the file and the line."""


@dataclass(frozen=True)
class Task:
    """Holds something that ran on a stream, or an access of the program itself.

    lane, index: the stream's number, and which of its tasks it is. does: what it does to the memory, for the two
    parties of a race. at: its Python line.
    """

    name: str
    stream: str
    lane: int
    index: int
    at: str
    does: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """Returns what tells it from all others of the process or capture."""
        return self.lane, self.index


@dataclass(frozen=True)
class Wait:
    """Says that all that follows in `lane` comes after each of `sources`, pairs of a lane and an index."""

    lane: int
    sources: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Gap:
    """Stands for steps that are left out."""

    num_steps: int


Step = Task | Wait | Gap


@dataclass(frozen=True)
class Report:
    """Holds one report. first and second are None where its text says it all; steps: from first to second."""

    pid: int
    text: str
    first: Task | None
    second: Task | None
    steps: tuple[Step, ...]


def read_reports(folder: Path) -> list[Report]:
    """Returns the reports of all processes that wrote into a folder; raises ReportError."""
    reports = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                reports.append(_report(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ReportError(f"{path}:{number} is no race report: {error!r}") from error
    return reports


def _report(values: Mapping[str, Any]) -> Report:
    first, second = (_task(values[name]) if name in values else None for name in ("first", "second"))
    steps = tuple(_step(entry) for entry in values.get("history", ()))
    return Report(int(values["pid"]), str(values["text"]), first, second, steps)


def _step(entry: int | Mapping[str, Any]) -> Step:
    if isinstance(entry, int):
        return Gap(entry)
    if "waiter" in entry:
        return Wait(int(entry["waiter"]), tuple((int(lane), int(index)) for lane, index in entry["for"]))
    return _task(entry)


def _task(values: Mapping[str, Any]) -> Task:
    names = (str(values["task"]), str(values["stream"]))
    return Task(*names, int(values["lane"]), int(values["index"]), str(values["at"]), str(values.get("does", "")))
