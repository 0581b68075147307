# SPDX-License-Identifier: Apache-2.0
"""Feeds vLLM's EPLB with our counts; schedule, policy and weight transfer stay, counting and all-reduce go.

vLLM 0.23.0 counts padding and warm-up rows too, sums its window over the ranks on the main stream and waits for
the result. Here the window ends `lead` steps before the rebalancing, so that its sum is on the host by then.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.eplb.eplb_state import EplbState

from vllm_ascend_ext.eplb_load.windows import CollectedLoad
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError


class EplbStateWithOurLoads(EplbState):
    """Makes an `EplbState` decide by the counts of a `CollectedLoad`.

    Until `use_loads` is called (while models load), and in vLLM's profile run, vLLM's own counts are used.
    """

    _collected: CollectedLoad | None = None
    _lead = _window_end = 0
    _window_loads: list[torch.Tensor] | None = None

    def use_loads(self, collected: CollectedLoad, lead: int, models: list[Any]) -> None:
        """Lets the rebalancing decide by our counts from now on.

        Args:
            collected: the counts.
            lead: number of steps from the end of a window to the rebalancing.
            models: model of each recorder, in the order of the recorders.

        Raises:
            UnsupportedCombinationError: vLLM balances a model whose load is not collected.
        """
        for state in self.model_states.values():
            if not any(state.model is model for model in models):
                raise UnsupportedCombinationError(
                    f"ascend_ext.eplb_load.rebalance: the load of {type(state.model).__name__} is not collected "
                    "(a draft model's only with enforce_eager); set rebalance to false"
                )
        self._collected, self._lead, self._models = collected, lead, models
        if self.should_record_tensor is not None:
            self.should_record_tensor.fill_(False)

    def step(self, is_dummy: bool = False, is_profile: bool = False, log_stats: bool = False) -> None:
        """Marks the ends of windows before vLLM's step, whose counter is the same on all ranks."""
        if self._collected is not None and not is_profile:
            interval = self.expert_rearrangement_step_interval
            remaining = interval - 1 - self.expert_rearrangement_step
            is_begin = remaining == (self._lead + self.expert_load_window_size) % interval
            if remaining == self._lead:
                self._window_end = self._collected.mark()
            elif is_begin:
                self._collected.mark()
        super().step(is_dummy, is_profile, log_stats)

    def rearrange(self, is_profile: bool = False, rank_mapping: dict[int, int] | None = None) -> Any:
        """Rearranges the experts as vLLM does, with our sums of the window in place of vLLM's."""
        if self._collected is None or is_profile:
            return super().rearrange(is_profile, rank_mapping)
        begin = self._window_end - self.expert_load_window_size
        window_loads = self._collected.window(begin, self._window_end)
        self._window_loads = [
            next(load for load, model in zip(window_loads, self._models, strict=True) if model is state.model)
            for state in self.model_states.values()
        ]
        try:
            return super().rearrange(is_profile, rank_mapping)
        finally:
            self._window_loads = None

    def _allreduce_list(self, tensor_list: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns our sums instead of an all-reduce while `rearrange` uses them: every rank has them already."""
        if self._window_loads is None:
            return super()._allreduce_list(tensor_list)
        for ours, theirs in zip(self._window_loads, tensor_list, strict=True):
            if ours.shape != theirs.shape:
                raise RuntimeError(f"load of shape {list(ours.shape)}, where vLLM has {list(theirs.shape)}")
        return [load_LE.to(self.device) for load_LE in self._window_loads]

    def _should_record_current_step(self, log_stats: bool = False) -> bool:
        """Returns false once our counts are in use, so that vLLM's own counting is off."""
        return self._collected is None and super()._should_record_current_step(log_stats)
