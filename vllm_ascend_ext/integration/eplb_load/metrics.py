# SPDX-License-Identifier: Apache-2.0
"""Expert load on a server's /metrics.

The first rank answers for all: hand-overs are the same on every rank. How the values come here: `engine_metrics`.
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
from vllm_ascend_ext.integration.upstream.engine_metrics import EngineMetrics

PREFIX = "vllm:ascend_ext_eplb_"
_MAX_GROUPS = 8

_COUNTERS = {
    "tokens": "Tokens whose routing was counted and handed over.",
    "snapshots": "Snapshots of expert load taken by the first rank.",
    "merged_snapshots": "Snapshots that found no free slot on the first rank and joined the next one.",
    "handovers": "Sums over all ranks handed over.",
    "handover_seconds": "Seconds from snapshots to their sums over all ranks.",
    "late_windows": "Rebalancings that had to wait for their window.",
}


def of_worker(worker: Any) -> dict[str, Any] | None:
    """The answer to the RPC: plain values; None on all ranks but the first, and without collection."""
    runner = worker.model_runner
    collected = None if runner.step_features is None else runner.step_features.collected
    if collected is None or not collected.is_first:
        return None
    collected.consume()
    stats, names = collected.aggregator.stats, _model_names(runner.step_features)
    return {
        "tokens": dict(zip(names, collected.num_tokens, strict=True)),
        "snapshots": stats.num_snapshots,
        "merged_snapshots": stats.num_merged,
        "handovers": stats.num_handovers,
        "handover_seconds": stats.handover_s,
        "late_windows": collected.window_stats.num_late,
        "imbalance": [
            {"model": name, **row}
            for name, load in zip(names, collected.newest, strict=True)
            for row in _imbalance(worker, name, load)
        ],
    }


def _model_names(features: Any) -> list[str]:
    """As in the worker's report of placements."""
    names = (("target", features.target_load), ("draft", features.draft_load))
    return [name for name, load in names if load is not None]


def _imbalance(worker: Any, name: str, load_LE: torch.Tensor | None) -> list[dict[str, Any]]:
    """Worst imbalance of each group of layers in the newest hand-over that counted anything."""
    if load_LE is None:
        return []
    over = {"experts": expert_imbalance(load_LE).max_over_mean}
    parallel_config = worker.vllm_config.parallel_config
    if parallel_config.enable_expert_parallel:
        num_ranks = parallel_config.tensor_parallel_size * parallel_config.data_parallel_size
        placement = worker.placements().get(name) or _static_placement(parallel_config, load_LE, num_ranks)
        over["ranks"] = placed_imbalance(load_LE, torch.as_tensor(placement), num_ranks).max_over_mean
    return [
        {"layers": f"{begin}-{end - 1}", "over": what, "ratio": max(ratios[begin:end])}
        for what, ratios in over.items()
        for begin, end in layer_groups(load_LE.shape[0], _MAX_GROUPS)
    ]


def _static_placement(parallel_config: Any, load_LE: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """``[L, E]``: the experts in the order of the ranks that hold them, without EPLB."""
    num_layers, num_experts = load_LE.shape
    if parallel_config.expert_placement_strategy == "round_robin":
        rank_E = torch.arange(num_experts) % num_ranks
    else:
        rank_E = contiguous_placement(num_experts, num_ranks)
    return torch.argsort(rank_E, stable=True).expand(num_layers, -1)


class ExpertLoadMetrics(EngineMetrics):
    """See the module."""

    prefix, rpc, subject = PREFIX, "ascend_ext_metrics", "expert load"

    def __init__(self, app: Any, client: Any) -> None:
        from prometheus_client import Gauge

        super().__init__(app, client)
        for name, text in _COUNTERS.items():
            self.add_counter(name, text, *(["model"] if name == "tokens" else []))
        self._imbalance = Gauge(
            PREFIX + "imbalance_ratio",
            "Busiest over average expert, or rank, in the newest hand-over: the worst layer of the group.",
            ["model_name", "model", "layers", "over"],
            multiprocess_mode="mostrecent",
        )

    def show(self, values: dict[str, Any]) -> None:
        """See `EngineMetrics.show`."""
        for name in _COUNTERS:
            if name == "tokens":
                for model, count in values[name].items():
                    self.count(name, count, model)
            else:
                self.count(name, values[name])
        for row in values["imbalance"]:
            labels = (self.model_name, row["model"], row["layers"], row["over"])
            self._imbalance.labels(*labels).set(row["ratio"])
