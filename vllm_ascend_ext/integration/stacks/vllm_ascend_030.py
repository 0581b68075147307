# SPDX-License-Identifier: Apache-2.0
"""Adapts the features to the layers of vllm-ascend 0.30, which route through vLLM's router objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.stacks.vllm_ascend import VllmAscendStack
from vllm_ascend_ext.integration.upstream.stack import Count
from vllm_ascend_ext.integration.upstream.versions import PAIR_0_30
from vllm_ascend_ext.rank_place import RankPlace
from vllm_ascend_ext.runner.step import StepFacts


class VllmAscend030Stack(VllmAscendStack):
    """Redefines what is other in vllm-ascend 0.30. Ways to serve that no test has run with it are `unverified`."""

    pair = PAIR_0_30
    unverified = frozenset(
        {
            "the V2 model runner",
            "other graphs",
            "data parallelism without expert parallelism",
            "pipeline parallelism",
            "context parallelism",
            "the compiler's sequence parallelism",
            "experts quantised otherwise",
            "other dispatches",
            "MegaMoe",
            "other drafts than MTP's and EAGLE-3's",
            "LoRA",
            "dynamic EPLB",
            *PAIR_0_30.unverified,
        }
    )

    def dispatches(self, vllm_config: Any) -> tuple[str, ...]:
        """Returns the ways to dispatch that vllm-ascend chooses among, by the policy of the SoC."""
        from vllm_ascend import ascend_forward_context as context
        from vllm_ascend.ascend_config import get_ascend_config
        from vllm_ascend.device.hardware_profile import MoECommPolicy, get_current_hardware_profile
        from vllm_ascend.utils import is_moe_model

        parallel = vllm_config.parallel_config
        num_ranks = parallel.world_size_across_dp // parallel.pipeline_parallel_size
        policy = get_current_hardware_profile().moe_comm_policy
        is_cut = is_moe_model(vllm_config) and parallel.enable_expert_parallel and num_ranks > 1
        if not is_cut or policy is MoECommPolicy.ALLGATHER:
            return ("ALLGATHER",)
        if policy is MoECommPolicy.FUSED_OR_CAPACITY:  # asks for groups that are not there yet
            return (
                ("FUSED_MC2", "MC2", "ALLTOALL") if get_ascend_config().enable_fused_mc2 else ("MC2", "ALLTOALL")
            )
        # a step of one token stands for those that fit the capacity, one of two for those that do not
        select = context._MOE_COMM_SELECTORS[policy]
        return tuple(dict.fromkeys(select(num_tokens, vllm_config, 1).name for num_tokens in (1, 2)))

    def splits_rows(self, vllm_config: Any) -> bool:
        """Returns whether vLLM's sequence parallelism, which FlashComm v1 is there, or the pass is on."""
        from vllm_ascend.utils import enable_sp

        return bool(enable_sp(vllm_config) or self.own_config(vllm_config).enable_sp_by_pass)

    def own_config(self, vllm_config: Any) -> Any:
        """Returns vllm-ascend's `AscendConfig`, with what was dropped from it turned off."""
        return _WithDroppedSettings(super().own_config(vllm_config))

    def moe_layers(self, runner: Any) -> dict[str, Any]:
        """Returns the runners of mixture-of-experts layers, which vLLM keeps for its forward context."""
        from vllm.model_executor.layers.fused_moe.layer import MoERunner

        context = runner.compilation_config.static_forward_context
        return {name: layer for name, layer in context.items() if isinstance(layer, MoERunner)}

    def experts_of(self, layer: Any) -> tuple[int, int]:
        """Returns what the layer's configuration says."""
        return int(layer.moe_config.num_logical_experts), int(layer.moe_config.experts_per_token)

    def own_rows(self, layer: Any, place: RankPlace) -> Callable[[int], slice]:
        """Returns the same as 0.23's stack, where models cut rows before a layer."""
        from vllm_ascend_ext.integration.eplb_load import ascend_rows

        cut = _cut(is_sequence_parallel=layer.moe_config.is_sequence_parallel)
        return lambda num_routed: ascend_rows.own_rows(layer, num_routed, place, cut)

    def num_to_count(self, facts: StepFacts, place: RankPlace, *, sequence_parallel: bool) -> int:
        """Returns the same as 0.23's stack (see `own_rows`)."""
        from vllm_ascend_ext.integration.eplb_load import ascend_rows

        return ascend_rows.num_to_count(facts.num_tokens, place, _cut(is_sequence_parallel=sequence_parallel))

    def watch_routing(self, name: str, layer: Any, count: Count) -> Callable[[Count], None]:
        """Passes the ids that a layer's router chooses to `count`, by vLLM's hook, whatever the quantisation."""
        from vllm_ascend.ops.fused_moe.fused_moe import AscendMoERunner

        if type(layer).forward is not AscendMoERunner.forward:
            raise UnsupportedCombinationError(
                f"ascend_ext.eplb_load cannot count {name}: {type(layer).__name__} is not vllm-ascend's "
                "AscendMoERunner; set eplb_load.enabled to false"
            )
        put: Callable[[Count], None] = layer.router.set_capture_fn
        put(count)
        return put


def _cut(*, is_sequence_parallel: bool) -> Any:
    """Returns what cuts the rows before the layers of a model."""
    from vllm_ascend_ext.integration.eplb_load import ascend_rows

    return ascend_rows.CUT_BY_THE_MODEL if is_sequence_parallel else ascend_rows.UNCUT


class _WithDroppedSettings:
    """Shows vllm-ascend's configuration, and settings that it had in 0.23 as they are without them."""

    multistream_overlap_gate = False

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


STACK = VllmAscend030Stack()
