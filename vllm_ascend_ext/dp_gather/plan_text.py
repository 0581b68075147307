# SPDX-License-Identifier: Apache-2.0
"""Prints a gather plan for people and as JSON."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.dp_gather.plan import Candidate, GatherPlan


def document(plan: GatherPlan) -> dict[str, Any]:
    """Returns the plan as plain values; bytes and seconds of one layer, bytes and offsets one a rank."""
    return {
        "counts": list(plan.counts),
        "dp_size": plan.topology.dp_size,
        "attn_tp_size": plan.topology.attn_tp_size,
        "in_graph": plan.in_graph,
        "mode": plan.mode.value,
        "reason": plan.reason,
        "candidates": [_candidate(candidate) for candidate in plan.candidates],
    }


def text(plan: GatherPlan) -> str:
    """Returns the plan in lines: the choice, then a line for each candidate."""
    lines = [f"{plan.mode.value}: {plan.reason}", f"{'':10}{'rows':>9}{'padding':>9}{'MB a rank':>19}{'time':>14}"]
    for candidate in plan.candidates:
        sent, rows, seconds = candidate.cost.sent, candidate.rows, candidate.cost.seconds
        least, most = f"{min(sent) / 1e6:.2f}", f"{max(sent) / 1e6:.2f}"
        megabytes = least if least == most else f"{least} to {most}"
        shown = "-" if seconds is None else f"{seconds * 1e6:.1f} us"
        mark = "*" if candidate.mode is plan.mode else " "
        name = f"{mark} {candidate.mode.value}"
        lines.append(f"{name:10}{rows.num_rows:>9}{rows.num_pad_rows:>9}{megabytes:>19}{shown:>14}")
    return "\n".join(lines)


def _candidate(candidate: Candidate) -> dict[str, Any]:
    rows, cost = candidate.rows, candidate.cost
    return {
        "mode": candidate.mode.value,
        "padded": list(rows.padded),
        "offsets": list(rows.offsets),
        "num_rows": rows.num_rows,
        "num_pad_rows": rows.num_pad_rows,
        "gather_bytes": list(cost.gather_bytes),
        "combine_bytes": list(cost.combine_bytes),
        "gather_s": cost.gather_s,
        "pad_s": cost.pad_s,
        "combine_s": cost.combine_s,
        "seconds": cost.seconds,
    }
