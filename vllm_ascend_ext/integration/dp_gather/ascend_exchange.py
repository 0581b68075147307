# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend 0.23.0's all-gather dispatch of mixture-of-experts layers, by the plan of each forward pass.

Its `PrepareAndFinalizeWithAllGather` pads every rank's rows to the longest, gathers them, lets the experts work on
the padding and scatters the sums back. Here the plan chooses the way, and the padding is dropped before the
experts, whose kernels take every row for a real one. It goes once vllm-ascend dispatches through vLLM's all-to-all
managers.

What the emulator has run is taken: eager mode, all-gather dispatch, every rank with all rows of its replica.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from vllm_ascend_ext.collectives.rows import padded
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.integration.dp_gather.planner import LayerPlanner, make_planner
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.moe_layers import check_runner

_OFF = "or set dp_gather.enabled to false"


def check(vllm_config: Any) -> None:
    """Refuse, before anything is loaded, what has not run; raises UnsupportedCombinationError."""
    from vllm_ascend.ascend_config import get_ascend_config
    from vllm_ascend.utils import enable_sp, enable_sp_by_pass

    model_config, ascend_config = vllm_config.model_config, get_ascend_config()
    eplb_config = ascend_config.eplb_config
    refused = (
        (
            model_config is not None and not model_config.enforce_eager,
            "is not verified in vllm-ascend's graph mode; set enforce_eager",
        ),
        (
            enable_sp(vllm_config) or enable_sp_by_pass() or ascend_config.enable_shared_expert_dp,
            "does not follow vllm-ascend's sequence parallelism; turn enable_flashcomm1 and "
            "enable_shared_expert_dp off",
        ),
        (
            vllm_config.parallel_config.pipeline_parallel_size > 1,
            "is not verified with pipeline stages on the NPU; set pipeline_parallel_size to 1",
        ),
        (
            eplb_config.dynamic_eplb or eplb_config.expert_map_path is not None,
            "is not verified with vllm-ascend's EPLB; turn eplb_config.dynamic_eplb off and leave expert_map_path "
            "out",
        ),
        (
            ascend_config.mix_placement,
            "is not verified with shared experts among the routed ones; turn mix_placement off",
        ),
        (
            ascend_config.multistream_overlap_gate,
            "needs the gate on the main stream; turn multistream_overlap_gate off",
        ),
        (
            vllm_config.kv_transfer_config is not None,
            "needs every replica's rows, which vllm-ascend does not exchange beside KV transfer; remove "
            "kv_transfer_config",
        ),
    )
    for is_refused, why in refused:
        if is_refused:
            raise UnsupportedCombinationError(f"ascend_ext.dp_gather {why}, {_OFF}")


def check_layers(layers: dict[str, Any]) -> None:
    """Refuse a loaded model whose layers cannot follow a plan; raises UnsupportedCombinationError."""
    from vllm_ascend.ops.fused_moe.fused_moe import AscendUnquantizedFusedMoEMethod

    for name, layer in layers.items():
        if getattr(layer, "tid2eid", None) is not None:
            raise UnsupportedCombinationError(
                f"ascend_ext.dp_gather does not gather the input ids by which {name} routes; use another "
                f"model, {_OFF}"
            )
        method = type(layer.quant_method)
        if method.apply is not AscendUnquantizedFusedMoEMethod.apply:
            raise UnsupportedCombinationError(
                f"ascend_ext.dp_gather is not verified with the quantised experts of {name} ({method.__name__}); "
                f"use an unquantised model, {_OFF}"
            )


def bind(runner: Any, layers: dict[str, Any], config: DpGatherConfig) -> LayerPlanner:
    """Let the layers of a loaded runner exchange rows by plan. Every rank calls it.

    Raises UnsupportedCombinationError when a step or a layer does not gather all rows; see also `make_planner`.
    """
    from vllm_ascend.ascend_forward_context import MoECommType
    from vllm_ascend.ops.fused_moe.moe_comm_method import get_moe_comm_method

    check_runner(runner, "dp_gather")
    check_layers(layers)
    planner = make_planner(runner, split_rows=False, config=config)
    method = get_moe_comm_method(MoECommType.ALLGATHER)
    exchange = PlannedExchange(planner)
    method.prepare_finalize._prepare_with_dp_group = exchange.prepare
    method.prepare_finalize._finalize_with_dp_group = exchange.finalize
    for layer in layers.values():
        layer.forward_impl = _planned(layer.forward_impl, planner)
    return planner


def _planned(forward_impl: Any, planner: LayerPlanner) -> Any:
    @functools.wraps(forward_impl)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with planner.layer():
            return forward_impl(*args, **kwargs)

    return forward


class PlannedExchange:
    """What stands for the two methods of `PrepareAndFinalizeWithAllGather`, with their parameters."""

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
        """All replicas' rows, without padding."""
        from vllm_ascend.ops.fused_moe.moe_runtime_args import MoEPrepareOutput

        gather = self._planner.gather
        plan = self._planner.put_in_force([hidden_states, router_logits])
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
        """This replica's rows of the sum over the replicas; the TP ranks' sum is the caller's."""
        gather = self._planner.gather
        return gather.combine(gather.restore_padding(hidden_states))[: self._num_tokens]
