# SPDX-License-Identifier: Apache-2.0
"""Where the mixture-of-experts layers of a loaded model are, and how vllm-ascend dispatches to them."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError


def moe_layers(runner: Any) -> dict[str, Any]:
    """Layer name → mixture-of-experts layer, in forward order, of the target and the draft model."""
    from vllm.model_executor.layers.fused_moe.layer import FusedMoE

    context = runner.compilation_config.static_forward_context
    return {name: layer for name, layer in context.items() if isinstance(layer, FusedMoE)}


def check_runner(runner: Any, feature: str = "eplb_load") -> None:
    """Refuse dispatches in which a rank routes a part of the rows; raises UnsupportedCombinationError.

    vllm-ascend chooses by the number of rows in a step; the smallest and the largest step show all its choices.
    """
    from vllm_ascend.ascend_forward_context import MoECommType, select_moe_comm_method

    for num_tokens in (1, runner.scheduler_config.max_num_batched_tokens):
        dispatch = select_moe_comm_method(num_tokens, runner.vllm_config)
        if dispatch is not None and dispatch is not MoECommType.ALLGATHER:
            raise UnsupportedCombinationError(
                f"ascend_ext.{feature} cannot see all rows where vllm-ascend dispatches by {dispatch.name}, as it "
                f"does here in steps of {num_tokens} tokens; use an SoC and a number of ranks with all-gather "
                f"dispatch (an A2 with fewer than 16 ranks), or set {feature}.enabled to false"
            )
