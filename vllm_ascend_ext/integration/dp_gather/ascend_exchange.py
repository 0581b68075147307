# SPDX-License-Identifier: Apache-2.0
"""Makes the all-gather dispatch of vllm-ascend 0.23.0's mixture-of-experts layers follow each pass's plan.

vllm-ascend's `PrepareAndFinalizeWithAllGather` pads every rank's rows to the longest, gathers them, lets the
experts work on the padding and scatters the sums back. Here the plan chooses how rows travel, and the padding is
dropped before the experts, whose kernels take every row for a real one. This file can be deleted once vllm-ascend
dispatches through vLLM's all-to-all managers.

Only what the emulator has run is accepted: eager mode, all-gather dispatch, every rank with all rows of its
replica.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from vllm_ascend_ext.collectives.rows import padded
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.integration.dp_gather.loaded_layers import check_ascend_layers
from vllm_ascend_ext.integration.dp_gather.planner import LayerPlanner, make_planner
from vllm_ascend_ext.integration.upstream.ascend_dispatch import check_runner
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import dp_gather as seams


def bind(runner: Any, layers: dict[str, Any], config: DpGatherConfig) -> LayerPlanner:
    """Makes the layers of a loaded runner exchange rows by plan. Every rank calls it.

    Raises:
        UnsupportedCombinationError: a step or a layer does not gather all rows, or `make_planner` refuses.
        StartupError: the ranks would plan differently.
    """
    from vllm_ascend.ascend_forward_context import MoECommType
    from vllm_ascend.ops.fused_moe.moe_comm_method import get_moe_comm_method

    check_runner(runner, "dp_gather", "has nothing to gather", ("ALLGATHER",))
    check_ascend_layers(layers)
    planner = make_planner(runner, split_rows=False, config=config)
    method = get_moe_comm_method(MoECommType.ALLGATHER)
    exchange = PlannedExchange(planner)
    change.replace(seams.PREPARE, exchange.prepare, method.prepare_finalize)
    change.replace(seams.FINALIZE, exchange.finalize, method.prepare_finalize)
    change.mark(seams.PREPARE, method.prepare_finalize, "own_rows_by_plan", exchange.own_rows)
    for layer in layers.values():
        change.wrap(seams.FORWARD, layer, functools.partial(_planned, planner=planner))
    return planner


def _planned(forward_impl: Any, planner: LayerPlanner) -> Any:
    @functools.wraps(forward_impl)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with planner.layer():
            return forward_impl(*args, **kwargs)

    return forward


class PlannedExchange:
    """Replaces the two methods of `PrepareAndFinalizeWithAllGather`, with the same parameters."""

    def __init__(self, planner: LayerPlanner) -> None:
        self._planner = planner
        self._num_tokens = 0

    def prepare(
        self,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        enable_shared_expert_dp: bool = False,
        replace_allreduce: bool = False,
        quant_type: Any = None,
    ) -> Any:
        """Returns all replicas' rows, without padding."""
        from vllm_ascend.ops.fused_moe.moe_runtime_args import MoEPrepareOutput

        gather = self._planner.gather
        plan = self._planner.plan_exchange([hidden_states, router_logits])
        self._num_tokens = hidden_states.shape[0]
        count = plan.counts[gather.rank]  # later passes of a draft have fewer rows than their context says
        gathered = [gather.drop_padding(gather.gather(padded(x, count))) for x in (hidden_states, router_logits)]
        return MoEPrepareOutput(
            hidden_states=gathered[0],
            router_logits=gathered[1],
            mc2_mask=None,
            padded_hidden_states_shape=None,
            pertoken_scale=None,
        )

    def finalize(self, hidden_states: torch.Tensor, reduce_results: bool) -> torch.Tensor:
        """Returns this replica's rows of the sum over the replicas. The caller sums over the TP ranks."""
        gather = self._planner.gather
        return gather.combine(gather.restore_padding(hidden_states))[: self._num_tokens]

    def own_rows(self) -> tuple[slice, int]:
        """Returns (which of the gathered rows are this replica's, how many were gathered)."""
        counts, rank = self._planner.gather.plan.counts, self._planner.gather.rank
        begin = sum(counts[:rank])
        return slice(begin, begin + counts[rank]), sum(counts)
