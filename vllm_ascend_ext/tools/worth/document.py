# SPDX-License-Identifier: Apache-2.0
"""Gives answers as plain values: what each feature costs and saves in a step, and what was published of it."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.tools.worth import published
from vllm_ascend_ext.tools.worth.collecting import load_cost, output_cost
from vllm_ascend_ext.tools.worth.gathering import spreads, step_s
from vllm_ascend_ext.tools.worth.question import Question
from vllm_ascend_ext.tools.worth.scattering import one_gather, ways


def answer(question: Question) -> dict[str, Any]:
    """Returns the answer to one question; seconds of a step on one rank."""
    sizes = question.sizes
    return {
        "model": sizes.name,
        "machine": question.machine.name,
        "tp": question.tp,
        "dp": question.dp,
        "tokens": question.tokens,
        "weights": question.weights,
        "dense_layers": len(sizes.routed) - sizes.num_routed,
        "routed_layers": sizes.num_routed,
        "step_s": step_s(question),
        "attn_scatter": _scattering(question),
        "attn_scatter_flashcomm1": _one_gather(question),
        "dp_gather": [
            {
                "spread": spread.name,
                "padded_s": spread.padded_s,
                "planned_s": spread.planned_s,
                "saved_s": spread.padded_s - spread.planned_s,
                "mode": spread.plan.mode.value,
            }
            for spread in spreads(question)
        ],
        "eplb_load": _load(question),
        "mtp_output": _output(question),
        "figures": [
            {
                "field": figure.field,
                "published": figure.published,
                "reached": figure.reached,
                "source": figure.source,
            }
            for figure in question.machine.figures
        ],
    }


def _scattering(question: Question) -> list[dict[str, Any]]:
    found = ways(question)
    return [
        {
            "way": way.name,
            "parts_s": {name: part.seconds for name, part in way.parts.items()},
            "calls_s": way.calls_s,
            "seconds": way.seconds,
            "saved_s": found[0].seconds - way.seconds,
            "min_tokens": way.min_tokens,
        }
        for way in found
    ]


def _one_gather(question: Question) -> dict[str, Any] | None:
    found = one_gather(question)
    if found is None:
        return None
    steps = found.steps
    return {
        "saved_s": found.saved_s,
        "min_tokens": None if steps is None else steps.first,
        "max_tokens": None if steps is None else steps.last,
    }


def _load(question: Question) -> dict[str, Any] | None:
    load = load_cost(question)
    if load is None:
        return None
    return {
        "cost_s": load.count_s,
        "launch_s": load.launch_s,
        "imbalance": question.imbalance,
        "even_load_saves_s": load.saved_s,
    }


def _output(question: Question) -> dict[str, Any]:
    output = output_cost(question)
    return {"cost_s": output.pack_s, "launch_rows": output.launch_rows}


def comparisons() -> list[dict[str, Any]]:
    """Returns what was published beside what the same model predicts."""
    found = [*published.profile(), *published.faster_requests()]
    by_model = [
        (f"{each.name}, the step predicted too", each) for each in published.faster_requests(by_model=True)
    ]
    named = [(each.name, each) for each in found] + by_model
    named += [(each.name, each) for each in published.uneven_gathers()]
    return [
        {"name": name, "published": each.published, "predicted": each.predicted, "error": each.error}
        for name, each in named
    ]
