# SPDX-License-Identifier: Apache-2.0
"""Sums expert load on the device: the collective runs on the side stream, in a group of its own.

A tick is a step at which the ranks take snapshots: one all-reduce on every rank. A rank without a free buffer adds
zeros, from memory of the side stream, and keeps the sum that it receives on the device until its next buffer is
copied to the host.
"""

from __future__ import annotations

from typing import Protocol

import torch

from vllm_ascend_ext.collectives.roll_call import RollCall
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX
from vllm_ascend_ext.eplb_load.transit import Buffer, Transit


class AllReduce(Protocol):
    """Describes the part of `Collectives` that is used here, in the order of the current stream."""

    num_ranks: int

    def all_reduce_(self, x: torch.Tensor) -> None:
        """Replaces `x` by its sum over the ranks."""
        ...


def max_routed_ids(num_ranks: int) -> int:
    """Returns how many routed ids a recorder may hold, so that the sum over `num_ranks` fits int32."""
    return INT32_MAX // num_ranks


class DeviceSum:
    """Sums snapshots on the side stream of the device, as one form of `SumOverRanks`.

    Args:
        collectives: collectives in stream order, over a group that nothing else uses.
        roll_call: roll call that names the silent ranks when the deadline has passed; None for a single rank.
        transit: snapshots and sums on their way, of recorders that are made with `max_routed_ids`.
    """

    has_thread = False

    def __init__(self, collectives: AllReduce, roll_call: RollCall | None, transit: Transit) -> None:
        self.max_routed_ids = max_routed_ids(collectives.num_ranks)
        self._collectives, self._roll_call, self._transit = collectives, roll_call, transit
        self._num_counters = transit.handover.num_counters
        num_elements = transit.handover.num_elements
        self._sums = [self._zeros(torch.int64) for _ in transit.buffers]
        self._pinned = [transit.device.pinned_empty([num_elements], torch.int64) for _ in transit.buffers]
        # only the side stream uses both; the carry is int64, as it takes up several sums
        self._spare_M, self._carry_M = self._zeros(torch.int32), self._zeros(torch.int64)
        made = transit.device.event()
        made.record()  # the buffers were zeroed on the main stream
        made.wait(transit.side)

    def start_copy(self, buffer: Buffer) -> None:
        """Submits the sum over the ranks, then its copy to the host."""
        for index, num_tokens in enumerate(buffer.num_tokens):
            buffer.load_M[self._num_counters + index].fill_(num_tokens)
        buffer.load_M[-1].fill_(0)
        self._collectives.all_reduce_(buffer.load_M)
        sum_M = self._sums[buffer.index]
        sum_M.copy_(buffer.load_M)
        sum_M.add_(self._carry_M)
        self._carry_M.zero_()
        self._pinned[buffer.index].copy_(sum_M, non_blocking=True)

    def send_zeros(self) -> None:
        """Adds zeros to the tick's sum, which the other ranks need, and keeps the sum, which this rank needs."""
        with self._transit.device.stream_switch(self._transit.side):
            self._spare_M.zero_()
            self._spare_M[-1].fill_(1)
            self._collectives.all_reduce_(self._spare_M)
            self._spare_M[-1].fill_(0)  # this tick is over once the next one is complete
            self._carry_M.add_(self._spare_M)

    def on_copied(self, buffer: Buffer) -> None:
        """Hands over the sum that has reached the host."""
        self._transit.add_sum(buffer.step, self._pinned[buffer.index].clone(), buffer.started_s)

    def is_drained(self) -> bool:
        """Returns whether no copy is on its way."""
        return not self._transit.in_flight

    def carried_M(self) -> torch.Tensor:  # noqa: N802
        """Returns the sums that wait on the device for this rank's next buffer; waits for the side stream."""
        with self._transit.device.stream_switch(self._transit.side):
            return self._carry_M.cpu()

    def explain(self, problem: str) -> str:
        """Returns the text about an overdue snapshot, with the silent ranks added."""
        if self._roll_call is None:
            return problem
        silent = self._roll_call.report(wait_s=min(self._transit.deadline_s, 4.0))
        if silent is None:
            return f"{problem}; the group's store cannot be reached to ask which ranks are alive"
        return f"{problem}; world ranks {silent} are silent (dead, hanging, or not in this call)"

    def reset(self) -> None:
        """Forgets the sums that wait on the device."""
        with self._transit.device.stream_switch(self._transit.side):
            self._carry_M.zero_()

    def close(self) -> None:
        """Does nothing: nothing was started."""

    def _zeros(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns zeros ``[M]`` on the device, for the side stream."""
        transit = self._transit
        tensor = torch.zeros(transit.handover.num_elements, dtype=dtype, device=transit.device.device)
        transit.device.keep_for(tensor, transit.side)
        return tensor
