# SPDX-License-Identifier: Apache-2.0
"""Makes the DP gather a feature of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.dp_gather.commitment import Commitment
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.dp_gather import ascend_limits, limits
from vllm_ascend_ext.integration.dp_gather.counts import limits as counts_limits
from vllm_ascend_ext.integration.dp_gather.planner import LayerPlanner
from vllm_ascend_ext.integration.feature import BoundFeature, Feature
from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.runner.step_cost import Place


class DpGatherFeature(Feature):
    """Exchanges the rows that replicas send to each other's experts by plan."""

    name = "dp_gather"
    summary = "gathers the rows of data-parallel replicas by the way that sends and pads least"
    rules = (*limits.RULES, *ascend_limits.RULES, *counts_limits.RULES)

    def configure(self, deployment: Deployment) -> None:
        """Chooses the scheduler that commits to the next pass, if `counts_ahead` is set."""
        if deployment.config.dp_gather.counts_ahead:
            counts_limits.use_scheduler(deployment.vllm_config.scheduler_config)

    def bind(self, worker: Any, config: DpGatherConfig, stack: Stack) -> BoundGather:
        """Makes the mixture-of-experts layers follow a planner wherever they exchange rows."""
        runner = worker.model_runner
        return BoundGather(stack.bind_exchange(runner, stack.moe_layers(runner), config))


class BoundGather(BoundFeature):
    """Holds the planner of one worker."""

    def __init__(self, planner: LayerPlanner) -> None:
        self.planner = planner

    def commit(self, commitment: Commitment) -> None:
        """Makes the coming pass carry this replica's commitment about the pass after it."""
        self.planner.counts.commit(commitment)

    def report(self) -> dict[str, Any]:
        """Returns what was exchanged in each mode, and how the replicas learned each other's row counts."""
        return {"modes": self.planner.report(), "counts": self.planner.counts_report()}

    def cost_places(self) -> Sequence[Place]:
        """Returns the parts of the exchanges."""
        return self.planner.cost_places()

    def reset(self) -> None:
        """Forgets what was counted."""
        self.planner.reset()
