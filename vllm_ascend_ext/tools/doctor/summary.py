# SPDX-License-Identifier: Apache-2.0
"""Prints the doctor's document (`doctor`) for people."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_ascend_ext.tools.doctor.seams import count_states


def print_summary(document: dict[str, Any], console: Console) -> None:
    """Prints all sections, the problems last."""
    _versions(document, console)
    _rows(console, "Tested pairs of vLLM and vllm-ascend", [_pair(row) for row in document["pairs"]])
    _platform(document, console)
    _rows(console, "Parts", [(row["part"], _state(row["active"]), row["why"]) for row in document["parts"]])
    _rows(console, "Devices", [_device(row) for row in document["devices"]])
    _operators(document, console)
    _rows(
        console,
        "Environment variables",
        [(row["name"], _value(row), row["meaning"]) for row in document["environment"]],
    )
    _rows(
        console,
        "Untested on this machine",
        [(row["device"], Text(""), ", ".join(row["parts"])) for row in document["untested"]],
    )
    _seams(document, console)
    _problems(document, console)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _grid(*columns: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)
    for column in columns:
        table.add_column(**column)
    return table


def _rows(console: Console, heading: str, rows: list[tuple[str, Text, str]]) -> None:
    if not rows:
        return
    _heading(console, heading)
    table = _grid({"no_wrap": True}, {"no_wrap": True}, {"overflow": "fold"})
    for name, state, text in rows:
        table.add_row(Text(name), state, Text(text))
    console.print(table)


def _operators(document: dict[str, Any], console: Console) -> None:
    """Prints a table operator × device, and below it, once a device, why the device has no kernels."""
    rows = document["operators"]
    if not rows:
        return
    _heading(console, "Operators")
    devices = list(dict.fromkeys(row["device"] for row in rows))
    kinds = {(row["op"], row["device"]): row["kind"] for row in rows}
    table = _grid(*[{"no_wrap": True}] * (len(devices) + 1))
    table.add_row(Text(""), *(Text(device, style="bold") for device in devices))
    for op in dict.fromkeys(row["op"] for row in rows):
        table.add_row(Text(op), *(Text(kinds[op, device]) for device in devices))
    console.print(table)
    for device in devices:
        for reason in dict.fromkeys(row["reason"] for row in rows if row["device"] == device and row["reason"]):
            console.print(Text(f" reference on {device}: {reason}", style="dim"))


def _versions(document: dict[str, Any], console: Console) -> None:
    console.print(Text("Versions", style="bold"))
    table = _grid({"no_wrap": True}, {"no_wrap": True})
    for name, version in document["versions"].items():
        table.add_row(Text(name), Text("-", style="dim") if version is None else Text(version))
    console.print(table)


def _platform(document: dict[str, Any], console: Console) -> None:
    _heading(console, "vLLM would use")
    table = _grid({"no_wrap": True}, {"overflow": "fold"})
    for name, value in document["platform"].items():
        table.add_row(Text(name.replace("_class", "").replace("_", " ")), Text(value or "-"))
    for row in (row for row in document["entry_points"] if row["value"].startswith("vllm_ascend_ext.")):
        table.add_row(Text("entry point"), Text(f"{row['group']}: {row['name']} = {row['value']}"))
    console.print(table)


def _state(active: bool) -> Text:
    return Text("active", style="green") if active else Text("off", style="dim")


def _pair(row: dict[str, Any]) -> tuple[str, Text, str]:
    state = Text("installed", style="green") if row["installed"] else Text("-", style="dim")
    lacks = "not known without torch" if row["unverified"] is None else ", ".join(row["unverified"]) or "nothing"
    return f"vLLM {row['vllm']}, vllm-ascend {row['vllm_ascend']}", state, f"not run, and refused: {lacks}"


def _device(row: dict[str, Any]) -> tuple[str, Text, str]:
    if not row["found"]:
        return row["device"], Text("absent", style="dim"), row["description"]
    able = [name.replace("_", " ") for name, has in row["capabilities"].items() if has]
    abilities = ", ".join(able) or "no side streams, graphs, pinned memory or device collectives"
    return row["device"], Text("found", style="green"), f"{row['description']}: {abilities}"


def _value(row: dict[str, Any]) -> Text:
    if row["value"] is None:
        return Text("invalid", style="red")
    return Text(str(row["value"]), style="dim" if row["value"] == row["default"] else "yellow")


def _seams(document: dict[str, Any], console: Console) -> None:
    """Prints how many symbols of vLLM and vllm-ascend we rely on; `doctor --seams` lists them."""
    counts = [
        (device, Text(""), count_states(list(rows)))
        for device, rows in groupby(document["seams"], key=lambda row: str(row["device"]))
    ]
    _rows(console, "Symbols of vLLM and vllm-ascend that we rely on (doctor --seams)", counts)


def _problems(document: dict[str, Any], console: Console) -> None:
    console.print()
    if not document["problems"]:
        console.print(Text("No problem found.", style="bold green"))
        return
    number = len(document["problems"])
    console.print(Text(f"{number} problem{'s' * (number > 1)} found", style="bold red"))
    for row in document["problems"]:
        table = _grid({"no_wrap": True}, {"overflow": "fold"})
        table.add_row(Text("✗", style="red"), Text(row["problem"]))
        table.add_row(Text(""), Text(f"fix: {row['fix']}"))
        console.print(table)
