# SPDX-License-Identifier: Apache-2.0
"""Expert load on a server's /metrics.

Workers have no way of their own to the API server, and `SchedulerStats` has no field to spare. So a request for
/metrics first asks the engine by RPC, at most once a second; an engine that does not answer in time leaves the
values as they were and counts a failure. Costs nothing while nobody asks.

The first rank answers for all: hand-overs are the same on every rank.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import torch

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.eplb.balance import contiguous_placement, expert_imbalance, layer_groups, placed_imbalance

logger = logging.getLogger(__name__)

PREFIX = "vllm:ascend_ext_eplb_"
_MAX_GROUPS = 8
_LEAST_AGE_S = 1.0  # values younger than this are not asked for again
_ANSWER_S = 5.0

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


class ExpertLoadMetrics:
    """ASGI middleware: before /metrics is answered, the values are refreshed.

    app: the next application. client: vLLM's engine client.
    """

    def __init__(self, app: Any, client: Any) -> None:
        from prometheus_client import Counter, Gauge

        self._app, self._client = app, client
        model_config = client.vllm_config.model_config
        names = model_config.served_model_name
        self._model_name = names[0] if isinstance(names, list) else str(names or model_config.model)
        labels = ["model_name"]
        self._counters = {
            name: Counter(PREFIX + name, text, [*labels, *(["model"] if name == "tokens" else [])])
            for name, text in _COUNTERS.items()
        }
        self._failures = Counter(PREFIX + "refresh_failures", "Times the engine did not answer.", labels)
        self._imbalance = Gauge(
            PREFIX + "imbalance_ratio",
            "Busiest over average expert, or rank, in the newest hand-over: the worst layer of the group.",
            [*labels, "model", "layers", "over"],
            multiprocess_mode="mostrecent",
        )
        self._counted: dict[tuple[str, ...], float] = {}
        self._lock = asyncio.Lock()
        self._refreshed_s = -_LEAST_AGE_S

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/metrics":
            async with self._lock:
                if time.monotonic() - self._refreshed_s >= _LEAST_AGE_S:
                    await self._refresh()
                    self._refreshed_s = time.monotonic()
        await self._app(scope, receive, send)

    async def _refresh(self) -> None:
        try:
            answers = await asyncio.wait_for(self._client.collective_rpc("ascend_ext_metrics"), _ANSWER_S)
        except Exception as error:  # a dead or busy engine must not take /metrics with it
            logger.warning("ascend_ext: expert load on /metrics is old: %r", error)
            self._failures.labels(self._model_name).inc()
            return
        for values in filter(None, answers):
            self._show(values)

    def _show(self, values: dict[str, Any]) -> None:
        for name in _COUNTERS:
            if name == "tokens":
                for model, count in values[name].items():
                    self._count(name, count, model)
            else:
                self._count(name, values[name])
        for row in values["imbalance"]:
            labels = (self._model_name, row["model"], row["layers"], row["over"])
            self._imbalance.labels(*labels).set(row["ratio"])

    def _count(self, name: str, total: float, *labels: str) -> None:
        """The engine tells totals, Prometheus wants increments."""
        key = (name, *labels)
        increment = total - self._counted.get(key, 0.0)
        self._counters[name].labels(self._model_name, *labels).inc(max(increment, 0.0))
        self._counted[key] = total


def serve(app: Any) -> None:
    """Show expert load on the /metrics of a server that is about to start; nothing when it is not collected.

    Of several API servers of one engine, the first shows it.
    """
    client = getattr(app.state, "engine_client", None)
    if client is None:
        return
    config = ExtConfig.from_additional_config(client.vllm_config.additional_config)
    if config is None or not config.eplb_load.enabled:
        return
    if getattr(client.engine_core, "client_index", 0) == 0:
        # vLLM has had the stack built by now, so add_middleware refuses
        stack = app.middleware_stack or app.build_middleware_stack()
        app.middleware_stack = ExpertLoadMetrics(stack, client)
