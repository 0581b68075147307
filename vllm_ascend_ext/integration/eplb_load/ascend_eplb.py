# SPDX-License-Identifier: Apache-2.0
"""Feeds vllm-ascend's dynamic EPLB with our counts; schedule, policy process and weight transfer stay.

vllm-ascend 0.23.0 counts padding and dummy rows too, and gathers its counts on the main stream, which waits for
the copy to the host. Here the counts that a decision uses end `lead` steps before it, so that their sum is on the
host by then. Policies of vllm-ascend move experts on even and idle windows, too, which exact counts make likelier:
here a window that cannot gain asks none. vllm-ascend also waits for its policy process for ever; here it is an
error when that process has ended or takes longer than the deadline.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from typing import Any

import torch
from vllm_ascend.eplb.eplb_updator import EplbUpdator

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.eplb_load.balance import can_gain
from vllm_ascend_ext.eplb_load.windows import CollectedLoad
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import eplb_load as seams


class PolicyProcessError(RuntimeError):
    """Reports that the process that computes placements has ended or does not answer."""


class EplbUpdatorWithOurLoads(EplbUpdator):
    """Gives the policy process of an `EplbUpdator` the counts of a `CollectedLoad`.

    A window begins where a cycle of the updator begins, and ends `lead` steps before the policy process is woken.
    """

    cur_iterations: int
    _collected: CollectedLoad
    _begin = 0
    _end: int | None = None
    _gains_nothing = False  # by the window of this cycle

    def use_loads(
        self, collected: CollectedLoad, config: EplbLoadConfig, layer_names: Sequence[Sequence[str]]
    ) -> None:
        """Lets the policy decide by our counts from now on.

        Args:
            collected: the counts.
            config: the feature's section of the configuration.
            layer_names: names of the layers that each recorder counts, in the order of the recorders.
        """
        self._collected, self._lead = collected, config.rebalance_lead
        self._rows = {
            name: (model, row) for model, names in enumerate(layer_names) for row, name in enumerate(names)
        }
        answers = self.eplb_process.block_update_q
        timed = PolicyAnswers(answers, self.process, config.deadline_s)
        change.replace(seams.POLICY_ANSWERS, timed, self.eplb_process)

    def set_adaptor(self, adaptor: Any) -> None:
        """Turns the layers' own counting off, now that vllm-ascend tells which layers there are.

        Raises:
            UnsupportedCombinationError: the load of a layer that is balanced is not collected.
        """
        super().set_adaptor(adaptor)
        for layer in adaptor.moe_layers:
            if layer.layer_name not in self._rows:
                raise UnsupportedCombinationError(
                    f"ascend_ext.eplb_load.rebalance: the load of {layer.layer_name} is not collected; set "
                    "rebalance to false"
                )
            change.replace(seams.LAYER_COUNTS, False, layer)

    def forward_end(self, eplb_heat_collection_status: bool = True) -> None:
        """Marks the ends of windows around vllm-ascend's step, whose counter is the same on all ranks."""
        if self.cur_iterations == self.expert_heat_collection_interval - 1 - self._lead:
            self._end = self._collected.mark()
        super().forward_end(eplb_heat_collection_status)
        if self._gains_nothing:  # the cycle ends here, with nothing to wait for and nothing to move
            self._gains_nothing = False
            self.adaptor.clear_all_moe_loads()
            self.cur_iterations = 0
        if self.cur_iterations == 0:  # a cycle has ended
            self._begin = self._collected.mark()

    def compute_and_set_moe_load(self) -> torch.Tensor:
        """Gives the policy process the window's sums, waiting for sums that are late.

        In vllm-ascend's warm-up there is no window yet; vllm-ascend's own method then runs. The passes that
        capture graphs move vllm-ascend's counter, too, but end no step: after them there is nothing to decide by.

        Returns:
            ``[L, R, P]`` int64 on the host, the load of each of a rank's places.
        """
        if self._end is None:
            return super().compute_and_set_moe_load()
        if not self._collected.has_ended(self._end):
            self._gains_nothing = True
            return self.shared_dict["moe_load"]
        loads = self._collected.window(self._begin, self._end)
        rows = [self._rows[layer.layer_name] for layer in self.adaptor.moe_layers]
        load_LE = torch.stack([loads[model][row] for model, row in rows])
        slots_LRE = self.shared_dict["expert_maps"]
        self.shared_dict["moe_load"] = moe_load = by_place(load_LE, slots_LRE)
        self._gains_nothing = not can_gain(moe_load, has_copies=moe_load[0].numel() > slots_LRE.shape[2])
        if self._gains_nothing:
            self._collected.note_no_gain()
        return moe_load

    def wakeup_eplb_worker(self) -> None:
        """Asks the policy, unless that cannot gain anything; all ranks have the same sums and decide alike."""
        if not self._gains_nothing:
            super().wakeup_eplb_worker()


def by_place(load_LE: torch.Tensor, slots_LRE: torch.Tensor) -> torch.Tensor:
    """Returns the load of each place, ``[L, R, P]`` int64; copies of an expert share its load, the first ones with
    one row more where it does not divide.

    Args:
        load_LE: ``[L, E]`` int64, the load of the logical experts.
        slots_LRE: ``[L, R, E]``, the place of expert e on rank r, or -1; each rank fills all of its P places.
    """
    num_layers, num_ranks, _ = slots_LRE.shape
    is_held_LRE = slots_LRE >= 0
    copies_LRE = is_held_LRE.sum(dim=1, keepdim=True).clamp(min=1)
    nth_LRE = is_held_LRE.cumsum(dim=1) - 1
    share_LRE = (load_LE[:, None] + copies_LRE - 1 - nth_LRE) // copies_LRE
    placed = torch.zeros(num_layers, num_ranks, int(slots_LRE.max()) + 1, dtype=torch.int64)
    layer, rank, expert = is_held_LRE.nonzero(as_tuple=True)
    placed[layer, rank, slots_LRE[layer, rank, expert].long()] = share_LRE[layer, rank, expert]
    return placed


class PolicyAnswers:
    """Reads the queue of a policy process with a deadline."""

    def __init__(self, answers: Any, process: Any, deadline_s: float) -> None:
        self._answers, self._process, self._deadline_s = answers, process, deadline_s

    def get(self) -> Any:
        """Returns the next answer.

        Raises:
            PolicyProcessError: the process has ended, or does not answer within the deadline.
        """
        end = time.monotonic() + self._deadline_s
        while True:
            is_alive = self._process.is_alive()  # asked first: what it sent before it ended still counts
            try:
                return self._answers.get(timeout=0.05)
            except queue.Empty:
                if not is_alive:
                    raise PolicyProcessError(
                        f"vllm-ascend's EPLB policy process {self._process.pid} has ended with exit code "
                        f"{self._process.exitcode}, and no placement will come; its error is in the log above"
                    ) from None
                if time.monotonic() >= end:
                    raise PolicyProcessError(
                        f"vllm-ascend's EPLB policy process {self._process.pid} has not answered for "
                        f"{self._deadline_s:g} s; raise ascend_ext.eplb_load.deadline_s or turn rebalance off"
                    ) from None
