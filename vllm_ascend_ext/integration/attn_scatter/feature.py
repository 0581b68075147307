# SPDX-License-Identifier: Apache-2.0
"""Makes scattered attention input a feature of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.attn_scatter import ascend_limits, limits
from vllm_ascend_ext.integration.attn_scatter.ascend_flashcomm import gather_once
from vllm_ascend_ext.integration.attn_scatter.cost_places import cost_places
from vllm_ascend_ext.integration.attn_scatter.model import SteppedModel, scatter
from vllm_ascend_ext.integration.feature import BoundFeature, Feature
from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.runner.step_cost import Place


class AttnScatterFeature(Feature):
    """Runs norms and attention's first projection on a shard of the rows."""

    name = "attn_scatter"
    summary = "runs norms and attention's first projection on each rank's own rows, and gathers the narrow latent"
    rules = (*limits.RULES, *ascend_limits.RULES)

    def bind(self, worker: Any, config: AttnScatterConfig, stack: Stack) -> BoundScatter:
        """Replaces the forward of the loaded model."""
        runner = worker.model_runner
        decoder = stack.decoder(runner)
        return BoundScatter((gather_once if decoder.cuts_rows else scatter)(runner, decoder, config))


class BoundScatter(BoundFeature):
    """Holds the scattered model of one worker."""

    def __init__(self, model: SteppedModel) -> None:
        self.model = model

    def report(self) -> dict[str, Any]:
        """Returns how many forward passes were scattered and how many not, and the bytes that were predicted."""
        return self.model.report()

    def cost_places(self) -> Sequence[Place]:
        """Returns the forward and the model's parts in it."""
        return cost_places(self.model)

    def reset(self) -> None:
        """Forgets what was counted."""
        self.model.reset()
