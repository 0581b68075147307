# SPDX-License-Identifier: Apache-2.0
"""Holds the table of seams (`integration/upstream/seams/`) against the installed vLLM and vllm-ascend."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, Seam
from vllm_ascend_ext.integration.upstream.seams.sources import Sources
from vllm_ascend_ext.integration.upstream.seams.table import SEAMS
from vllm_ascend_ext.integration.upstream.versions import installed_pair

OK, ABSENT, BROKEN = "ok", "absent", "broken"
_COLORS = {OK: "green", ABSENT: "dim", BROKEN: "bold red"}


def examine_seams(sources: Sources | None = None) -> list[dict[str, Any]]:
    """Returns a row for each seam and device on which it is used, in the order of devices.

    Keys: `device`, `target`, `kind`, `feature`, `state` ("ok", "broken", or "absent" where the package is not
    installed), `found` (how a sound one is found, or what is wrong), `why`, `upstream`, `remove_when`.

    sources: of the packages to examine; by default those that are installed. Rows of other pairs than the
        installed one are left out.
    """
    sources, pair = sources or Sources(), installed_pair()
    used = {device: [seam for seam in SEAMS if seam.is_used(device, pair)] for device in DEVICES}
    states = {seam: _state(seam, sources) for seams in used.values() for seam in seams}
    return [
        {
            "device": device,
            "target": seam.target,
            "kind": seam.kind,
            "feature": seam.feature,
            "state": states[seam][0],
            "found": states[seam][1],
            "why": seam.why,
            "upstream": seam.link,
            "remove_when": seam.remove_when,
        }
        for device, seams in used.items()
        for seam in seams
    ]


def _state(seam: Seam, sources: Sources) -> tuple[str, str]:
    if not sources.has_package(seam.package):
        return ABSENT, f"{seam.package} is not installed"
    problem = sources.problem_with(seam)
    return (OK, sources.how(seam)) if problem is None else (BROKEN, problem)


def broken_seams(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what is wrong with each broken seam, once."""
    return list(dict.fromkeys(row["found"] for row in rows if row["state"] == BROKEN))


def print_seams(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints a table a device; rows with one reason stand together, below it."""
    for device, of_device in groupby(rows, key=lambda row: row["device"]):
        listed = list(of_device)
        console.print()
        console.print(Text(f"Seams on {device}: {count_states(listed)}", style="bold"))
        reasons = groupby(listed, key=lambda row: (row["feature"], row["why"], row["remove_when"]))
        for (feature, why, remove_when), group in reasons:
            console.print(Text(f" {feature}: {why}", style="bold dim"))
            console.print(Text(f" until {remove_when}", style="dim"))
            console.print(_table(list(group)), soft_wrap=True)


def count_states(rows: list[dict[str, Any]]) -> str:
    """Returns how many rows are in which state, in words."""
    counts = {state: sum(row["state"] == state for row in rows) for state in _COLORS}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == BROKEN)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)
    for no_wrap in (True, True, True, False):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    for row in rows:
        state = Text(row["state"], style=_COLORS[row["state"]])
        table.add_row(state, Text(row["kind"]), Text(row["target"]), Text(row["found"], style="dim"))
    return table
