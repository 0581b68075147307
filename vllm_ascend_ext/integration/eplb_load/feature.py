# SPDX-License-Identifier: Apache-2.0
"""Defines expert-load collection as a feature of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.eplb_load.collection import ExpertLoadCollection
from vllm_ascend_ext.integration.eplb_load import limits, rebalance_limits
from vllm_ascend_ext.integration.eplb_load.bind import collect
from vllm_ascend_ext.integration.eplb_load.metrics import ExpertLoadMetrics, metric_values
from vllm_ascend_ext.integration.feature import BoundFeature, Feature
from vllm_ascend_ext.integration.upstream.moe_layers import expert_placements
from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.runner.step_cost import Method, Place


class EplbLoadFeature(Feature):
    """Counts the tokens routed to each expert."""

    name = "eplb_load"
    summary = "counts the tokens routed to each expert, exactly and off the critical path"
    rules = (
        *limits.RULES,
        *limits.ASCEND_RULES,
        *rebalance_limits.VLLM_RULES,
        *rebalance_limits.ASCEND_RULES,
    )
    metric_set = ExpertLoadMetrics

    def before_load(self, config: EplbLoadConfig, stack: Stack) -> AbstractContextManager[None]:
        """Returns the context in which the device's EPLB is built of a class that our counts can feed."""
        return stack.eplb_with_our_loads() if config.rebalance else nullcontext()

    def bind(self, worker: Any, config: EplbLoadConfig, stack: Stack) -> BoundFeature:
        """Hooks recorders into the routers of the loaded models."""
        collected = collect(worker.model_runner, config, stack)
        if collected is None:
            return NothingToCount()
        worker.model_runner.add_observer(collected.collection)
        return BoundLoad(worker, *collected)


class NothingToCount(BoundFeature):
    """Stands for the collection on a pipeline stage without mixture-of-experts layers."""

    def report(self) -> dict[str, Any]:
        """Returns that nothing was counted."""
        return {"has_handovers": False, "load": [], "collection": None}


class BoundLoad(BoundFeature):
    """Reports and ends the collection of one worker."""

    def __init__(self, worker: Any, collection: ExpertLoadCollection, hooks: list[Place]) -> None:
        self.collection = collection
        self._worker, self._hooks = worker, hooks

    def report(self) -> dict[str, Any]:
        """Returns the loads by model and how the collection went on this rank.

        The value of `has_handovers` tells whether the loads include what all ranks have handed over, as they do on
        the first rank only.
        """
        windows = self.collection.windows
        return {
            "has_handovers": windows.is_first,
            "load": [
                {
                    "model": model,
                    "layers": list(named.layer_names),
                    "top_k": named.top_k,
                    "num_tokens": named.load.num_tokens,
                    "load_LE": named.load.load_LE.tolist(),
                }
                for model, named in zip(self.collection.names, self.collection.read(), strict=True)
            ],
            "collection": {
                "step": windows.step,
                **asdict(windows.snapshots.stats),
                **asdict(windows.window_stats),
            },
        }

    def reset(self) -> None:
        """Forgets all counts."""
        self.collection.reset()

    def metric_values(self) -> dict[str, Any] | None:
        """Returns the values for /metrics; None on all ranks of a stage but the first."""
        runner = self._worker.model_runner
        return metric_values(self.collection, expert_placements(runner), self._worker.vllm_config.parallel_config)

    def cost_places(self) -> Sequence[Place]:
        """Returns the routing hooks, which a captured graph replays without, and the calls of the runner."""
        calls = ("begin_forward", "begin_draft", "begin_drafts", "end_step")
        return [*self._hooks, *(Method(name, self.collection, name) for name in calls)]

    def close(self) -> None:
        """Ends the thread that sums, where there is one."""
        self.collection.close()
