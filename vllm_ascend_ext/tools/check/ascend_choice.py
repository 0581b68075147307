# SPDX-License-Identifier: Apache-2.0
"""Answers what rules ask of vllm-ascend from a command alone, where vllm-ascend is not installed.

Each answer stands beside vllm-ascend's own in `integration/stacks/vllm_ascend.py`; tests/tools/check compares the
two over a table of configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from vllm_ascend_ext.integration.stacks.vllm_ascend import VllmAscendStack
from vllm_ascend_ext.tools.check.errors import CommandError

# ranks among which MC2 is for small steps on an A2, and the most experts of each then
_A2_MC2_RANKS, _A2_MC2_EXPERTS = 16, 24
_FUSED_RANKS = 32  # the most ranks of fused MC2, enable_fused_mc2=1


class CommandStack(VllmAscendStack):
    """Answers for vllm-ascend 0.23 on one SoC, by the command's configuration and environment.

    soc: one of `tools.check.SOCS`. environment: what the command sets. eplb_defaults: the keys of vllm-ascend's
        `eplb_config`, with what counts where a key is not given.
    """

    eplb_defaults: Mapping[str, Any] = {
        "dynamic_eplb": False,
        "expert_map_path": None,
        "expert_heat_collection_interval": 600,
        "algorithm_execution_interval": 50,
        "expert_map_record_path": None,
        "num_redundant_experts": 0,
        "eplb_policy_type": 2,
        "eplb_heat_collection_stage": "all",
    }

    def __init__(self, soc: str, environment: Mapping[str, str]) -> None:
        self.soc, self.environment = soc, environment

    def dispatches(self, vllm_config: Any) -> tuple[str, ...]:
        """Returns the ways to dispatch that steps may take, as vllm-ascend chooses by SoC, ranks and experts."""
        parallel, model, ranks = vllm_config.parallel_config, vllm_config.model_config, _ep_ranks(vllm_config)
        if not model.is_moe or not parallel.enable_expert_parallel or ranks == 1:
            return ("ALLGATHER",)
        if self.soc == "A2":
            is_small = model.get_num_experts() // ranks <= _A2_MC2_EXPERTS
            return ("MC2", "ALLGATHER") if ranks >= _A2_MC2_RANKS and is_small else ("ALLGATHER",)
        if self.soc == "A3":
            return ("FUSED_MC2", "MC2", "ALLTOALL") if self._fused_mc2(vllm_config) else ("MC2", "ALLTOALL")
        gathers = parallel.world_size_across_dp <= model.num_experts_per_tok
        return ("MC2", "ALLGATHER" if gathers else "ALLTOALL")

    def dispatch_class(self, vllm_config: Any) -> str:
        """Returns the ways that steps take, for a class: `dispatches` without what fused operators replace."""
        ways = self.dispatches(vllm_config)
        if "FUSED_MC2" not in ways:
            return ", ".join(ways)
        if self._fused_mc2(vllm_config) == 2:
            return "FUSED_MC2 (2), ALLTOALL"
        return "FUSED_MC2" if _ep_ranks(vllm_config) <= _FUSED_RANKS else "MC2, ALLTOALL"

    def _fused_mc2(self, vllm_config: Any) -> Any:
        return self._setting(vllm_config, "enable_fused_mc2", "VLLM_ASCEND_ENABLE_FUSED_MC2")

    def uses_second_runner(self) -> bool:
        """Returns whether the V2 model runner is built: vllm-ascend 0.23 builds the V1 runner always."""
        return False

    def keeps_all2all_backend(self, compilation_config: Any, additional: Mapping[str, Any]) -> bool:
        """Returns whether vllm-ascend's platform leaves vLLM's backend of all-to-all as it is."""
        return bool(compilation_config.pass_config.enable_sp)

    def splits_rows(self, vllm_config: Any) -> bool:
        """Returns whether FlashComm v1, shared-expert DP or the pass of sequence parallelism is on."""
        has_flashcomm = self._setting(vllm_config, "enable_flashcomm1", "VLLM_ASCEND_ENABLE_FLASHCOMM1")
        return bool(has_flashcomm) or self._shared_expert_dp(vllm_config) or self._sp_by_pass(vllm_config)

    def own_config(self, vllm_config: Any) -> Any:
        """Returns the part of vllm-ascend's configuration that rules look at."""
        given = vllm_config.additional_config
        return SimpleNamespace(
            eplb_config=self._eplb(given.get("eplb_config") or {}),
            mix_placement=given.get("mix_placement", False),
            multistream_overlap_gate=given.get("multistream_overlap_gate", False),
            enable_shared_expert_dp=self._shared_expert_dp(vllm_config),
            enable_sp_by_pass=self._sp_by_pass(vllm_config),
            enable_flashcomm1=self._setting(vllm_config, "enable_flashcomm1", "VLLM_ASCEND_ENABLE_FLASHCOMM1"),
            enable_fused_mc2=self._fused_mc2(vllm_config),
            enable_matmul_allreduce=self._setting(
                vllm_config, "enable_matmul_allreduce", "VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE"
            ),
            enable_flashcomm2_parallel_size=self._setting(
                vllm_config, "enable_flashcomm2_parallel_size", "VLLM_ASCEND_FLASHCOMM2_PARALLEL_SIZE"
            ),
        )

    def _eplb(self, given: Any) -> SimpleNamespace:
        if not isinstance(given, dict):
            raise CommandError("additional_config.eplb_config is no mapping; give one")
        if unknown := sorted(set(given) - set(self.eplb_defaults)):
            raise CommandError(f"additional_config.eplb_config has no {unknown[0]!r}; remove it")
        eplb = {**self.eplb_defaults, **given}
        eplb["dynamic_eplb"] = bool(eplb["dynamic_eplb"] or eplb["expert_map_record_path"] is not None)
        return SimpleNamespace(**eplb)

    def _setting(self, vllm_config: Any, key: str, variable: str) -> Any:
        """Returns a key of the additional configuration, before a variable that is a number."""
        if key in vllm_config.additional_config:
            return vllm_config.additional_config[key]
        text = self.environment.get(variable, "0")
        try:
            return int(text)
        except ValueError:
            raise CommandError(f"{variable}={text}: vllm-ascend wants a number there, 0 or 1") from None

    def _shared_expert_dp(self, vllm_config: Any) -> bool:
        parallel = vllm_config.parallel_config
        is_asked = vllm_config.additional_config.get("enable_shared_expert_dp", False)
        return bool(is_asked and parallel.enable_expert_parallel and parallel.tensor_parallel_size > 1)

    def _sp_by_pass(self, vllm_config: Any) -> bool:
        has_pass = vllm_config.compilation_config.pass_config.enable_sp
        return bool(has_pass and not vllm_config.model_config.enforce_eager)


def _ep_ranks(vllm_config: Any) -> int:
    parallel = vllm_config.parallel_config
    return int(parallel.world_size_across_dp // parallel.pipeline_parallel_size)
