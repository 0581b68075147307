# SPDX-License-Identifier: Apache-2.0
"""Summing expert load on the device: the collective runs on the side stream, in a group of its own.

Every tick is one all-reduce on every rank. A rank without a free slot adds zeros from a buffer of the side stream
and keeps what it receives in `carry` on the device, for its next slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from vllm_ascend_ext.collectives.roll_call import RollCall
from vllm_ascend_ext.device import Device
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX, ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import ExpertLoadAggregator, Slot


class AllReduce(Protocol):
    """The part of `Collectives` that is used here. It works in the order of the current stream."""

    num_ranks: int

    def all_reduce_(self, x: torch.Tensor) -> None:
        """Replaces `x` by its sum over the ranks."""
        ...


def max_slots(num_ranks: int) -> int:
    """Routed slots a recorder may hold, so that the sum over `num_ranks` fits int32."""
    return INT32_MAX // num_ranks


class DeviceAggregator(ExpertLoadAggregator):
    """See the module.

    Args:
        collectives: in stream order, over a group that nothing else uses.
        roll_call: names the silent ranks when the deadline has passed; None for a single rank.
        others: see `ExpertLoadAggregator`. The recorders are made with `max_slots`.

    Raises:
        ValueError: the sum of the ranks' counters could overflow int32.
    """

    def __init__(
        self,
        recorders: Sequence[ExpertLoadRecorder],
        device: Device,
        collectives: AllReduce,
        roll_call: RollCall | None = None,
        *,
        step: int = 0,
        num_slots: int = 2,
        deadline_s: float = 60.0,
    ) -> None:
        if any(recorder.max_routed_ids > max_slots(collectives.num_ranks) for recorder in recorders):
            raise ValueError(
                f"counters of {collectives.num_ranks} ranks could overflow their sum: make the recorders with "
                f"max_routed_ids={max_slots(collectives.num_ranks)}"
            )
        super().__init__(recorders, device, step=step, num_slots=num_slots, deadline_s=deadline_s)
        self._collectives, self._roll_call = collectives, roll_call

        def zeros(dtype: torch.dtype) -> torch.Tensor:
            tensor = torch.zeros(self.handover.num_elements, dtype=dtype, device=device.device)
            device.keep_for(tensor, self.side)
            return tensor

        self._sums = {id(slot): zeros(torch.int64) for slot in self.slots}
        self._pinned = {
            id(slot): device.pinned_empty([self.handover.num_elements], torch.int64) for slot in self.slots
        }
        # of the side stream alone; int64, as it takes up several sums
        self._spare_M, self._carry_M = zeros(torch.int32), zeros(torch.int64)
        made = device.event()
        made.record()  # the buffers were zeroed on the main stream
        made.wait(self.side)

    def ship(self, slot: Slot) -> None:
        """See `ExpertLoadAggregator.ship`: the sum, then the copy to the host."""
        for index, num_tokens in enumerate(slot.num_tokens):
            slot.load_M[self.handover.num_counters + index].fill_(num_tokens)
        slot.load_M[-1].fill_(0)
        self._collectives.all_reduce_(slot.load_M)
        sum_M = self._sums[id(slot)]
        sum_M.copy_(slot.load_M)
        sum_M.add_(self._carry_M)
        self._carry_M.zero_()
        self._pinned[id(slot)].copy_(sum_M, non_blocking=True)

    def skip(self) -> None:
        """See `ExpertLoadAggregator.skip`: the other ranks' sum needs this rank, and this rank needs the sum."""
        with self.device.stream_switch(self.side):
            self._spare_M.zero_()
            self._spare_M[-1].fill_(1)
            self._collectives.all_reduce_(self._spare_M)
            self._spare_M[-1].fill_(0)  # this tick is over once the next one is complete
            self._carry_M.add_(self._spare_M)

    def arrive(self, slot: Slot) -> None:
        """See `ExpertLoadAggregator.arrive`."""
        self.deliver(slot.step, self._pinned[id(slot)].clone(), slot.started_s)

    def close(self) -> None:
        """See `ExpertLoadAggregator.close`: nothing was started."""

    def settled(self) -> bool:
        """See `ExpertLoadAggregator.settled`."""
        return not self.in_flight

    def held(self) -> tuple[torch.Tensor, list[int]]:
        """See `ExpertLoadAggregator.held`: also what waits on the device for this rank's next slot."""
        held_N, tokens = super().held()
        with self.device.stream_switch(self.side):
            carry_M = self._carry_M.cpu()  # waits for the stream
        num_counters = self.handover.num_counters
        carried = carry_M[num_counters:-1].tolist()
        return held_N + carry_M[:num_counters], [a + b for a, b in zip(tokens, carried, strict=True)]

    def reset(self) -> None:
        """See `ExpertLoadAggregator.reset`."""
        super().reset()
        with self.device.stream_switch(self.side):
            self._carry_M.zero_()

    def overdue(self) -> str | None:
        """See `ExpertLoadAggregator.overdue`; names the ranks that do not say the same."""
        problem = super().overdue()
        if problem is None or self._roll_call is None or self.failure is not None:
            return problem
        silent = self._roll_call.report(wait_s=min(self.deadline_s, 4.0))
        if silent is None:
            return f"{problem}; the group's store cannot be reached to ask which ranks are alive"
        return f"{problem}; world ranks {silent} are silent (dead, hanging, or not in this call)"
