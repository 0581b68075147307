# SPDX-License-Identifier: Apache-2.0
"""Prints an answer for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LABEL, _CELL = 40, 18  # characters


def lines(answer: Mapping[str, Any], *, sources: bool = False) -> Iterator[str]:
    """Yields the lines of an answer as `document.answer` returns it; `sources`: with the machine's figures."""
    layers = f"{answer['dense_layers']} dense and {answer['routed_layers']} routed layers"
    replicas = "1 replica" if answer["dp"] == 1 else f"{answer['dp']} replicas"
    yield (
        f"{answer['model']} on {answer['machine']}: {replicas} of TP{answer['tp']}, {answer['tokens']} rows each, "
        f"{answer['weights']}; {layers}"
    )
    yield f"A step takes at least {_ms(answer['step_s'])} ms. Predicted from published figures, not measured."
    yield ""
    yield from _scatter(answer)
    yield ""
    yield from _gather(answer)
    yield ""
    yield from _load(answer)
    yield ""
    yield from _output(answer)
    if sources:
        yield ""
        yield "figures (published x share that is reached):"
        for figure in answer["figures"]:
            yield f"  {figure['field']:13}{figure['published']:>10.3g} x {figure['reached']:<6g}{figure['source']}"


def compared(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the lines of `document.comparisons`."""
    width = max(len(each["name"]) for each in comparisons) + 2
    yield f"{'':{width}}{'published':>11}{'predicted':>11}{'off by':>9}"
    for each in comparisons:
        numbers = f"{each['published']:>11.2f}{each['predicted']:>11.2f}{100 * each['error']:>+8.1f}%"
        yield f"{each['name']:{width}}{numbers}"


def _scatter(answer: Mapping[str, Any]) -> Iterator[str]:
    ways = answer["attn_scatter"]
    if len(ways) == 1:
        yield "attn_scatter: one tensor-parallel rank has nothing to divide"
        return
    yield _row("attn_scatter, ms a step of what differs", [way["way"] for way in ways])
    names = list(dict.fromkeys(name for way in reversed(ways) for name in way["parts_s"]))
    for name in names:
        found = (way["parts_s"].get(name) for way in ways)
        yield _row(f"  {name}", ["-" if seconds is None else _ms(seconds) for seconds in found])
    yield _row("  the collectives' latency", [_ms(way["calls_s"]) for way in ways])
    yield _row("  together", [_ms(way["seconds"]) for way in ways])
    yield _row("  saved", ["", *(_ms(way["saved_s"]) for way in ways[1:])])
    shares = (f"{100 * way['saved_s'] / answer['step_s']:.1f}%" for way in ways[1:])
    yield _row("  of the step, at most", ["", *shares])
    thresholds = (str(way["min_tokens"] or "never") for way in ways[1:])
    yield _row("  pays from this many rows on", ["", *thresholds])
    if answer["attn_scatter_flashcomm1"] is not None:
        yield f"  beside FlashComm v1: {_beside_flashcomm(answer['attn_scatter_flashcomm1'])}"


def _beside_flashcomm(once: Mapping[str, Any]) -> str:
    verb = "saves" if once["saved_s"] > 0 else "costs"
    saved = f"one gather in each layer {verb} {_ms(abs(once['saved_s']))} ms"
    if once["min_tokens"] is None:
        return f"{saved}, and pays in no step"
    if once["max_tokens"] is None:
        return f"{saved}, and pays from {once['min_tokens']} rows on"
    return f"{saved}, and pays in steps of {once['min_tokens']} to {once['max_tokens']} rows"


def _gather(answer: Mapping[str, Any]) -> Iterator[str]:
    if not answer["dp_gather"]:
        why = "one replica" if answer["dp"] == 1 else "a model without routed experts"
        yield f"dp_gather: {why} has nothing to gather"
        return
    yield _row("dp_gather, ms a step", ["padded", "planned", "saved", "mode"])
    for spread in answer["dp_gather"]:
        times = (_ms(spread[name]) for name in ("padded_s", "planned_s", "saved_s"))
        yield _row(f"  {spread['spread']}", [*times, spread["mode"]])


def _load(answer: Mapping[str, Any]) -> Iterator[str]:
    load = answer["eplb_load"]
    if load is None:
        yield "eplb_load: the model has no routed experts"
        return
    yield (
        f"eplb_load: counting takes {_ms(load['cost_s'])} ms a step ({_share(load['cost_s'], answer)}), of which "
        f"{_ms(load['launch_s'])} to start kernels"
    )
    yield (
        f"  an even load saves {_ms(load['even_load_saves_s'])} ms a step at most where the busiest rank has "
        f"{load['imbalance']:g} times the average"
    )


def _output(answer: Mapping[str, Any]) -> Iterator[str]:
    output = answer["mtp_output"]
    yield (
        f"mtp_output: packing takes {_ms(output['cost_s'])} ms a step ({_share(output['cost_s'], answer)}); what "
        "it saves is time of the host"
    )
    yield f"  a decoding step has {output['launch_rows']} rows at most, which is known without asking the device"


def _row(label: str, cells: Sequence[str]) -> str:
    return label.ljust(_LABEL) + "".join(f"{cell:>{_CELL}}" for cell in cells)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _share(seconds: float, answer: Mapping[str, Any]) -> str:
    return f"{100 * seconds / answer['step_s']:.2f} %"
