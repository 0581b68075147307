# SPDX-License-Identifier: Apache-2.0
"""Ranks' reports as `ascend_ext_report` gives them, with known loads."""

from typing import Any

TARGET = ["model.layers.1.mlp.experts", "model.layers.2.mlp.experts"]
DRAFT = ["model.layers.3.mlp.experts"]


def of_model(layers: list[str], num_tokens: int, *load_LE: list[int]) -> dict[str, Any]:
    """The load of one model on one rank; top-k is 2."""
    model = "draft" if layers == DRAFT else "target"
    return {"model": model, "layers": layers, "top_k": 2, "num_tokens": num_tokens, "load_LE": list(load_LE)}


def rank_report(rank: int, *loads: dict[str, Any]) -> dict[str, Any]:
    """The report of a rank; without loads, of one where `eplb_load` is off."""
    eplb_load = {"has_handovers": rank == 0, "load": list(loads), "collection": {}} if loads else None
    others = dict.fromkeys(("dp_gather", "attn_scatter", "mtp_output"))
    return {"rank": rank, "traffic": {}, "placements": {}, "eplb_load": eplb_load, **others}


def two_ranks(times: int = 1) -> list[dict[str, Any]]:
    """Two ranks whose sum is [6, 4, 0], [2, 2, 6] for the target and [1, 3, 2] for the draft, `times` over."""
    rank_loads = (
        (of_model(TARGET, 3, [4, 1, 0], [1, 0, 4]), of_model(DRAFT, 1, [0, 1, 1])),
        (of_model(TARGET, 2, [2, 3, 0], [1, 2, 2]), of_model(DRAFT, 2, [1, 2, 1])),
    )
    reports = [rank_report(rank, *loads) for rank, loads in enumerate(rank_loads)]
    for load in (load for report in reports for load in report["eplb_load"]["load"]):
        load["num_tokens"] *= times
        load["load_LE"] = [[count * times for count in row] for row in load["load_LE"]]
    return reports


SUM = [[6, 4, 0], [2, 2, 6], [1, 3, 2]]
LABELS = ["layer 1", "layer 2", "layer 3 (draft)"]
