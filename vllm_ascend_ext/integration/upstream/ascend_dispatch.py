# SPDX-License-Identifier: Apache-2.0
"""Tells how vllm-ascend's layers dispatch rows to experts: before anything is loaded, and of a loaded runner."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError


def dispatches(vllm_config: Any) -> tuple[str, ...]:
    """Returns the names of the ways that steps of this configuration may take, from vllm-ascend's own choice.

    That choice (`select_moe_comm_method`) asks groups and a capacity that exist once a runner is built. What it
    depends on before that is the SoC, the number of ranks and the number of experts: MC2 is for steps that fit
    its capacity, so a step of one token stands for those here.
    """
    from vllm_ascend import ascend_forward_context as context
    from vllm_ascend.ascend_config import get_ascend_config
    from vllm_ascend.utils import AscendDeviceType, get_ascend_device_type, is_moe_model

    parallel_config = vllm_config.parallel_config
    num_ranks = parallel_config.world_size_across_dp // parallel_config.pipeline_parallel_size
    soc = get_ascend_device_type()
    gathers = "ALLGATHER"
    if not is_moe_model(vllm_config) or not parallel_config.enable_expert_parallel or num_ranks == 1:
        return (gathers,)
    if soc == AscendDeviceType.A2:
        small = context._select_a2_moe_comm_method(1, vllm_config, 1).name
        return (gathers,) if small == gathers else (small, gathers)
    if soc == AscendDeviceType.A3:
        return ("FUSED_MC2", "MC2", "ALLTOALL") if get_ascend_config().enable_fused_mc2 else ("MC2", "ALLTOALL")
    if soc == AscendDeviceType.A5:
        choices = [
            context._select_a5_moe_comm_method(*rows).name for rows in ((1, vllm_config, 1), (2, vllm_config, 1))
        ]
        return tuple(dict.fromkeys(choices))
    return (gathers,)


def check_runner(runner: Any, feature: str, why: str, known: tuple[str, ...]) -> None:
    """Refuses dispatches that a feature does not know, which `dispatches` missed.

    vllm-ascend chooses by the number of rows in a step; the smallest and the largest step show all its choices.

    Args:
        runner: the runner, with loaded models.
        feature: name of the feature, for the message.
        why: what the feature cannot do there, for the message.
        known: names of the dispatches that it works with.

    Raises:
        UnsupportedCombinationError: a step would be dispatched in another way.
    """
    from vllm_ascend.ascend_forward_context import select_moe_comm_method

    for num_tokens in (1, runner.scheduler_config.max_num_batched_tokens):
        dispatch = select_moe_comm_method(num_tokens, runner.vllm_config)
        if dispatch is not None and dispatch.name not in known:
            raise UnsupportedCombinationError(
                f"ascend_ext.{feature} {why} where vllm-ascend dispatches by {dispatch.name}, as it does here in "
                f"steps of {num_tokens} tokens; set {feature}.enabled to false"
            )
