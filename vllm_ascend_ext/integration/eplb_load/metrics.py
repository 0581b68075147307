# SPDX-License-Identifier: Apache-2.0
"""Shows expert load on a server's /metrics.

The first rank of a stage answers for all of it: hand-overs are the same on every rank. `server/metrics.py` brings
the values to the API server.
"""

from __future__ import annotations

from typing import Any

import torch

from vllm_ascend_ext.eplb_load.balance import (
    contiguous_placement,
    expert_imbalance,
    layer_groups,
    placed_imbalance,
)
from vllm_ascend_ext.eplb_load.collection import ExpertLoadCollection
from vllm_ascend_ext.integration.ranks.place import rank_place
from vllm_ascend_ext.integration.upstream.metric_set import MetricSet

PREFIX = "vllm:ascend_ext_eplb_load_"
_MAX_GROUPS = 8

_COUNTERS = {
    "tokens": "Tokens whose routing was counted and handed over.",
    "snapshots": "Snapshots of expert load taken by the first rank.",
    "merged_snapshots": "Snapshots that found no free slot on the first rank and joined the next one.",
    "handovers": "Sums over all ranks handed over.",
    "handover_seconds": "Seconds from snapshots to their sums over all ranks.",
    "late_windows": "Rebalancings that had to wait for their window.",
    "windows_without_gain": "Windows whose load no placement could spread better, so that no policy was asked.",
}


def metric_values(
    collection: ExpertLoadCollection, placements: dict[str, list[list[int]]], parallel_config: Any
) -> dict[str, Any] | None:
    """Returns what `ExpertLoadMetrics` shows, as plain values. Does not wait.

    Only the first rank of each pipeline stage answers; the others return None.

    Args:
        collection: the collection of this rank.
        placements: placements of the experts by EPLB, for each model that is balanced.
        parallel_config: vLLM's `ParallelConfig`.
    """
    windows = collection.windows
    if not windows.is_first:
        return None
    place = rank_place(parallel_config)
    stage = f"stage {place.pp_rank}: " if place.pp_size > 1 else ""  # each stage has its own layers
    windows.consume()
    stats = windows.snapshots.stats
    return {
        "tokens": dict(zip(collection.names, windows.num_tokens, strict=True)),
        "snapshots": stats.num_snapshots,
        "merged_snapshots": stats.num_merged,
        "handovers": stats.num_handovers,
        "handover_seconds": stats.handover_s,
        "late_windows": windows.window_stats.num_late,
        "windows_without_gain": windows.window_stats.num_without_gain,
        "imbalance": [
            {"model": name, **row, "layers": stage + row["layers"]}
            for name, load in zip(collection.names, windows.newest, strict=True)
            for row in _imbalance(load, placements.get(name), parallel_config)
        ],
    }


def _imbalance(
    load_LE: torch.Tensor | None, placement: list[list[int]] | None, parallel_config: Any
) -> list[dict[str, Any]]:
    """Returns the worst imbalance of each group of layers in the newest hand-over that counted anything."""
    if load_LE is None:
        return []
    over = {"experts": expert_imbalance(load_LE).max_over_mean}
    if parallel_config.enable_expert_parallel:
        num_ranks = parallel_config.tensor_parallel_size * parallel_config.data_parallel_size
        placed_LP = placement or _static_placement(parallel_config, load_LE, num_ranks)
        over["ranks"] = placed_imbalance(load_LE, torch.as_tensor(placed_LP), num_ranks).max_over_mean
    return [
        {"layers": f"{begin}-{end - 1}", "over": what, "ratio": max(ratios[begin:end])}
        for what, ratios in over.items()
        for begin, end in layer_groups(load_LE.shape[0], _MAX_GROUPS)
    ]


def _static_placement(parallel_config: Any, load_LE: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """Returns ``[L, E]``: the experts in the order of the ranks that hold them where EPLB is off."""
    num_layers, num_experts = load_LE.shape
    if parallel_config.expert_placement_strategy == "round_robin":
        rank_E = torch.arange(num_experts) % num_ranks
    else:
        rank_E = contiguous_placement(num_experts, num_ranks)
    return torch.argsort(rank_E, stable=True).expand(num_layers, -1)


class ExpertLoadMetrics(MetricSet):
    """Shows the counters of expert load, and the imbalance of each group of layers."""

    prefix = PREFIX

    def __init__(self, model_name: str) -> None:
        super().__init__(model_name)
        for name, text in _COUNTERS.items():
            self.add("counter", name, text, *(["model"] if name == "tokens" else []))
        text = (
            "Busiest over average expert, or rank, in the newest hand-over: the worst layer of the group, in a "
            "pipeline of a stage."
        )
        self.add("gauge", "imbalance_ratio", text, "model", "layers", "over")

    def show(self, values: dict[str, Any]) -> None:
        """Shows the values that one rank has answered."""
        for name in _COUNTERS:
            if name == "tokens":
                for model, count in values[name].items():
                    self.put(name, count, model)
            else:
                self.put(name, values[name])
        for row in values["imbalance"]:
            self.put("imbalance_ratio", row["ratio"], row["model"], row["layers"], row["over"])
