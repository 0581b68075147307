# SPDX-License-Identifier: Apache-2.0
"""Prints the demo's document (`demo.report`) for people: tables for load and traffic, lines for the rest."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from vllm_ascend_ext.eplb_load.heatmap.heatmap import layer_label


def print_summary(document: dict[str, Any], console: Console) -> None:
    """Prints everything but the completions."""
    console.print()
    _say(console, ("speed", _speed(document)), ("MTP", _acceptance(document["mtp"])))
    console.print()
    console.print(_load_table(document))
    _say(console, ("busiest", _busiest(document)))
    console.print()
    console.print(_traffic_table(document["traffic"]) if document["traffic"] else Text("no traffic: one rank"))
    same = document["comparison"] is not None and document["comparison"]["same_tokens"]
    style = "green" if same else "" if document["comparison"] is None else "bold red"
    console.print()
    _say(console, ("heat map", document["heatmap"]), ("tokens", comparison_line(document)), style=style)


def comparison_line(document: dict[str, Any]) -> str:
    """Says whether the tokens are those of the plain engine, or the first one that is not."""
    comparison = document["comparison"]
    if comparison is None:
        return "not compared (--no-compare)"
    count = f"{comparison['num_same']} of {comparison['num_prompts']} prompts: same tokens"
    plain = "as on 1 rank with everything off"
    if comparison["same_tokens"]:
        return f"{count} {plain}"
    first = comparison["first_difference"]
    difference = (
        f"{count} {plain}; first difference in prompt {first['prompt']} "
        f"({document['completions'][first['prompt']]['prompt']!r}) at position {first['position']}: "
        f"token {_token(first, 'token')} instead of {_token(first, 'reference_token')}"
    )
    if document["layout"]["dtype"] == "float32":
        return difference
    return (
        f"{difference}. In {document['layout']['dtype']} this is no failure: ranks add partial sums in another "
        "order, and near-equal candidates then swap; compare in float32"
    )


def _say(console: Console, *rows: tuple[str, str], style: str = "") -> None:
    """Prints name and text of each row, long texts with a hanging indent; `style` is the last text's."""
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold", width=8)
    table.add_column()
    for index, (name, text) in enumerate(rows, start=1):
        table.add_row(name, Text(text, style=style if index == len(rows) else ""))
    console.print(table)


def _speed(document: dict[str, Any]) -> str:
    seconds = document["seconds"]
    return (
        f"{document['tokens_per_second']:.1f} tokens/s: {document['num_generated_tokens']} tokens in "
        f"{seconds['generate']:.1f} s (before that, {seconds['load_vllm']:.1f} s to load vLLM and "
        f"{seconds['start']:.1f} s to start the engine)"
    )


def _acceptance(mtp: dict[str, Any] | None) -> str:
    if mtp is None:
        return "off"
    rates = ", ".join(
        f"position {position}: {rate:.1%} ({accepted} of {mtp['num_drafts']})"
        for position, (rate, accepted) in enumerate(
            zip(mtp["acceptance_rate"], mtp["accepted"], strict=True), start=1
        )
    )
    return f"drafts accepted at {rates}; {mtp['tokens_per_round']:.2f} tokens a round"


def _table(title: str, *columns: str, left: int) -> Table:
    """Makes an empty table whose first `left` columns hold text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    return table


def _load_table(document: dict[str, Any]) -> Table:
    table = _table(
        f"Expert load of {len(document['layers'][0]['load'])} experts (max/mean: busiest over average, 1 is even)",
        "layer",
        "rows routed",
        "top-k",
        "experts max/mean",
        "ranks max/mean",
        "busiest expert",
        left=1,
    )
    for layer in document["layers"]:
        load = layer["load"]
        hot = max(range(len(load)), key=load.__getitem__)
        ranks = layer["rank_imbalance"]
        table.add_row(
            layer_label(layer["name"], layer["draft"]),
            str(layer["num_tokens"]),
            str(layer["top_k"]),
            f"{layer['expert_imbalance']:.2f}",
            "-" if ranks is None else f"{ranks:.2f}",
            f"{hot} ({load[hot]} rows)",
        )
    return table


def _busiest(document: dict[str, Any]) -> str:
    names = {layer["name"]: layer_label(layer["name"], layer["draft"]) for layer in document["layers"]}
    return ", ".join(
        f"{names[hot['layer']]} expert {hot['expert']} {hot['share']:.1%}" for hot in document["busiest_experts"]
    )


def _traffic_table(traffic: list[dict[str, Any]]) -> Table:
    """Makes the traffic table: one row for all ranks that sent the same."""
    table = _table("Sent by each rank", "group", "operation", "rank", "calls", "rows", "bytes", left=3)
    ranks: dict[tuple[str, str, int, int, int], list[int]] = {}
    for row in traffic:
        key = (row["group"], row["operation"], row["calls"], row["rows"], row["bytes"])
        ranks.setdefault(key, []).append(row["rank"])
    for (group, operation, calls, rows, num_bytes), members in sorted(ranks.items()):
        names = ", ".join(str(member) for member in members)
        table.add_row(group, operation, names, str(calls), str(rows), decimal(num_bytes))
    return table


def _token(difference: dict[str, Any], key: str) -> str:
    return "(end)" if difference[key] is None else f"{difference[key]} {difference[f'{key}_text']!r}"
