# SPDX-License-Identifier: Apache-2.0
"""Answers for vllm-ascend 0.30 what `ascend_choice` answers for 0.23, where the two differ."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from vllm_ascend_ext.integration.stacks.vllm_ascend_030 import VllmAscend030Stack
from vllm_ascend_ext.tools.check.ascend_choice import CommandStack
from vllm_ascend_ext.tools.check.errors import CommandError


class CommandStack030(CommandStack):
    """Redefines what is other in vllm-ascend 0.30; stands beside `integration/stacks/vllm_ascend_030.py`."""

    pair = VllmAscend030Stack.pair
    unverified = VllmAscend030Stack.unverified
    eplb_defaults: Mapping[str, Any] = {
        **CommandStack.eplb_defaults,
        "load_collection_phase": "all",
        "stair_config": {},
    }

    def uses_second_runner(self) -> bool:
        """Returns whether the command asks for the V2 model runner: vllm-ascend goes by this variable alone."""
        text = self.environment.get("VLLM_USE_V2_MODEL_RUNNER", "0")
        try:
            return bool(int(text))
        except ValueError:
            raise CommandError(f"VLLM_USE_V2_MODEL_RUNNER={text}: vLLM wants a number there, 0 or 1") from None

    def keeps_all2all_backend(self, compilation_config: Any, additional: Mapping[str, Any]) -> bool:
        """Returns whether FlashComm v1 is asked for, which is vLLM's sequence-parallel experts there."""
        return self._flashcomm(additional)

    def splits_rows(self, vllm_config: Any) -> bool:
        """Returns whether vLLM's sequence-parallel experts or the pass of sequence parallelism is on."""
        return self._sequence_parallel_moe(vllm_config) or self._sp_by_pass(vllm_config)

    def own_config(self, vllm_config: Any) -> Any:
        """Returns the part of vllm-ascend's configuration that rules look at: a fused MC2 of 2 is 1 there."""
        own = super().own_config(vllm_config)
        return SimpleNamespace(
            eplb_config=own.eplb_config,
            mix_placement=own.mix_placement,
            multistream_overlap_gate=False,
            enable_shared_expert_dp=own.enable_shared_expert_dp,
            enable_sp_by_pass=own.enable_sp_by_pass,
            enable_flashcomm1=self._sequence_parallel_moe(vllm_config),
            enable_fused_mc2=int(bool(own.enable_fused_mc2)),
        )

    def _setting(self, vllm_config: Any, key: str, variable: str) -> Any:
        """Returns a key of the additional configuration: no variable stands for it any more."""
        return vllm_config.additional_config.get(key, 0)

    def _flashcomm(self, given: Mapping[str, Any]) -> bool:
        """Returns whether FlashComm v1 is asked for; context parallelism of sparse attention asks for it, too."""
        by_variable = self.environment.get("VLLM_ASCEND_ENABLE_FLASHCOMM1", "0").strip().lower() in ("1", "true")
        return bool(given.get("enable_flashcomm1") or by_variable or given.get("enable_dsa_cp"))

    def _sequence_parallel_moe(self, vllm_config: Any) -> bool:
        parallel = vllm_config.parallel_config
        is_cut = parallel.enable_expert_parallel and parallel.tensor_parallel_size > 1
        return bool(is_cut and self._flashcomm(vllm_config.additional_config))
