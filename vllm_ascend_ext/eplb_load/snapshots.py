# SPDX-License-Identifier: Apache-2.0
"""Moves counts from the recorders to the host, summed over the ranks, off the main stream.

Orders, each by an event or by the order within one stream:

1. main: recorders write → `take_into` a slot → event A (`taken`).     Same stream.
2. side: wait A → (sum) → copy to pinned memory → event B (`arrived`).  A orders the read after the write.
3. host: B queried true → read pinned memory; only then is the slot free.  B orders the host's read after the copy.
4. main: `take_into` the slot again.  After 3, so after the side stream's last access to it.

Slots, pinned memory and events live as long as the object, and `Device.keep_for` tells the allocator of the side
stream, so no block is reused while that stream uses it. Nothing else crosses streams.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.device import Device
from vllm_ascend_ext.eplb_load.handover import ExpertLoad, HandOver
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder, LocalLoad

SIDE_STREAM = "expert load"
_POLL_INTERVAL_S = 0.0002


class AggregationError(RuntimeError):
    """Counts could not be summed within the deadline; the message names the step and the ranks missing."""


@dataclass(slots=True)
class AggregationStats:
    """What this rank has seen so far.

    Attributes:
        num_merged: snapshots for which no slot was free, so that their counts joined the next one.
        num_waits: snapshots that had to be taken, and waited for a slot.
        handover_s: sum over `num_handovers` of the seconds from snapshot to sum.
    """

    num_snapshots: int = 0
    num_merged: int = 0
    num_waits: int = 0
    num_handovers: int = 0
    handover_s: float = 0.0


class Slot:
    """One snapshot on its way: persistent memory ``[M]`` (see `HandOver`) and the two events."""

    def __init__(self, handover: HandOver, device: Device) -> None:
        self.load_M = torch.zeros(handover.num_elements, dtype=torch.int32, device=device.device)
        self.parts = handover.split(self.load_M)
        self.taken, self.arrived = device.event(), device.event()
        self.step = self.previous_tick = 0
        self.required = False
        self.num_tokens: list[int] = []
        self.started_s = 0.0


class ExpertLoadAggregator(ABC):
    """Snapshots, slots and the hand-over; how ranks are summed is the subclass's.

    All ranks call `snapshot` with the same steps in the same order. The thread that runs the model calls all
    public methods.

    Args:
        recorders: of this rank; the same layers and experts on all ranks.
        device: of the recorders.
        step: the step after which the first hand-over begins.
        num_slots: snapshots that may be on their way.
        deadline_s: of every wait.
    """

    def __init__(
        self,
        recorders: Sequence[ExpertLoadRecorder],
        device: Device,
        *,
        step: int,
        num_slots: int,
        deadline_s: float,
    ) -> None:
        if not recorders or num_slots < 1 or deadline_s <= 0:
            raise ValueError(f"{len(recorders)} recorders, {num_slots} slots, a deadline of {deadline_s:g} s")
        self.stats = AggregationStats()
        self.recorders, self.device, self.deadline_s = list(recorders), device, deadline_s
        self.handover = HandOver([recorder.load_LE.shape for recorder in recorders], step)
        self.side = device.stream(SIDE_STREAM)
        self.slots = [Slot(self.handover, device) for _ in range(num_slots)]
        for slot in self.slots:
            device.keep_for(slot.load_M, self.side)
        self.changed = threading.Condition()  # guards everything below, and `handover`
        self.newest_tick = self.summed_until = step
        self.failure: AggregationError | None = None
        self.in_flight: deque[Slot] = deque()
        self._free = deque(self.slots)

    def snapshot(self, step: int, *, required: bool = False) -> bool:
        """Sends what was counted until now on its way; returns at once when no slot is free, unless `required`.

        Args:
            step: the last step whose counts are complete; greater than at the last call.
            required: wait for a slot, so that one hand-over ends at exactly this step. The same on all ranks.

        Returns:
            Whether a slot was free; else the counts stay and join the next snapshot.

        Raises:
            ValueError: `step` is not greater.
            RuntimeError: a graph is being captured.
            AggregationError: a rank is gone, or the deadline has passed.
        """
        if self.device.is_capturing():
            raise RuntimeError("a snapshot of expert load cannot be captured in a graph")
        self._advance()
        if step <= self.newest_tick:
            raise ValueError(f"snapshot of step {step} after step {self.newest_tick}")
        slot = self._free_slot(wait=required or self._nearly_full())
        if slot is None:
            self.stats.num_merged += 1
            self.skip()
            with self.changed:
                self.newest_tick = step
                self.changed.notify_all()
            return False
        self.stats.num_snapshots += 1
        slot.step, slot.previous_tick, slot.required = step, self.newest_tick, required
        slot.started_s = time.monotonic()
        self._launch(slot)
        with self.changed:  # only now may another thread ask for its event
            self.in_flight.append(slot)
            self.newest_tick = step
            self.changed.notify_all()
        return True

    def poll(self) -> list[tuple[ExpertLoad, ...]]:
        """Sums that are ready, oldest first, one `ExpertLoad` a recorder. Never blocks.

        Sums that nobody polls for merge into one another when there are many; none is lost.

        Raises:
            AggregationError: see `snapshot`.
        """
        if self.in_flight or self.failure is not None:
            self._advance()
        if not self.handover.has_ready:
            return []
        with self.changed:
            return self.handover.take_ready()

    def wait_until(self, step: int) -> None:
        """Blocks until everything up to `step`, at which a snapshot was required, can be polled.

        Raises:
            AggregationError: see `snapshot`.
        """
        self._wait(lambda: self.handover.until >= step, f"the sum of expert load until step {step}")

    def settle(self) -> None:
        """Blocks until no snapshot is on its way. What was not handed over then is in `pending`.

        Raises:
            AggregationError: see `snapshot`.
        """
        self._wait(self.settled, "the sum of the snapshots on their way")

    def pending(self, *, held: bool) -> list[LocalLoad]:
        """What has been counted here and is neither handed over nor on its way; call `settle` before.

        Args:
            held: add what has been summed over all ranks, but not handed over. It is the same on every rank, so
                for a total one rank alone adds it.
        """
        loads = [recorder.read() for recorder in self.recorders]
        if not held:
            return loads
        held_N, tokens = self.held()
        return [
            LocalLoad(load.load_LE + held_LE, load.num_tokens + num_tokens, load.num_steps)
            for load, held_LE, num_tokens in zip(loads, self.handover.split(held_N), tokens, strict=True)
        ]

    def reset(self) -> None:
        """Forgets all counts; call `settle` before, on all ranks, and let no rank step meanwhile."""
        for recorder in self.recorders:
            recorder.reset()
        with self.changed:
            self.handover.reset(self.newest_tick)

    @abstractmethod
    def close(self) -> None:
        """Ends what the subclass started. Snapshots on their way are lost."""

    @abstractmethod
    def ship(self, slot: Slot) -> None:
        """Submits the way of a slot to the host, on the side stream, which has waited for `slot.taken`."""

    @abstractmethod
    def skip(self) -> None:
        """This tick has no snapshot."""

    @abstractmethod
    def arrive(self, slot: Slot) -> None:
        """`slot.arrived` was reached; afterwards the slot is free. Called with `changed` held."""

    @abstractmethod
    def settled(self) -> bool:
        """Whether no snapshot is on its way."""

    def held(self) -> tuple[torch.Tensor, list[int]]:
        """Counters ``[N]`` and tokens that are summed over all ranks but not handed over."""
        return self.handover.held_N, self.handover.held_tokens

    def collect(self) -> None:
        """Takes up the snapshots that have arrived, in order. Never blocks; any thread may call it."""
        with self.changed:
            while self.in_flight and self.in_flight[0].arrived.query():
                slot = self.in_flight[0]
                self.arrive(slot)
                self.in_flight.popleft()
                self._free.append(slot)
                self.changed.notify_all()

    def deliver(self, step: int, sum_M: torch.Tensor, started_s: float) -> None:
        """Takes a sum over all ranks (see `HandOver.add`) whose newest snapshot was taken at `started_s`."""
        with self.changed:
            self.summed_until = step
            if self.handover.add(step, sum_M):
                self.stats.num_handovers += 1
                self.stats.handover_s += time.monotonic() - started_s
            self.changed.notify_all()

    def fail(self, problem: str) -> None:
        """All later calls raise; the first problem counts."""
        with self.changed:
            self.failure = self.failure or AggregationError(problem)
            self.changed.notify_all()

    def overdue(self) -> str | None:
        """What has not arrived within the deadline, in words."""
        if not self.in_flight:
            return None
        try:
            slot = self.in_flight[0]
        except IndexError:  # another thread has just taken it up
            return None
        if time.monotonic() - slot.started_s < self.deadline_s or slot.arrived.query():
            return None
        what = f"the snapshot of expert load of step {slot.step}"
        return f"{what} has not reached the host within {self.deadline_s:g} s"

    def _launch(self, slot: Slot) -> None:
        slot.num_tokens = [
            recorder.take_into(part) for recorder, part in zip(self.recorders, slot.parts, strict=True)
        ]
        slot.taken.record()
        with self.device.stream_switch(self.side):
            slot.taken.wait()
            self.ship(slot)
            slot.arrived.record()

    def take_up(self) -> None:
        """What the thread that runs the model does for the snapshots on their way."""
        self.collect()

    def _advance(self) -> None:
        self.take_up()
        if self.failure is None and (problem := self.overdue()):
            self.fail(problem)
        if self.failure is not None:
            raise self.failure

    def _nearly_full(self) -> bool:
        """Counts that stayed must not come near the range of the counters: then a snapshot waits for a slot."""
        return any(recorder.num_routed_ids > recorder.max_routed_ids // 2 for recorder in self.recorders)

    def _free_slot(self, *, wait: bool) -> Slot | None:
        if wait and not self._free:
            self.stats.num_waits += 1
            self._wait(lambda: bool(self._free), "a free slot for expert load")
        return self._free.popleft() if self._free else None  # only this thread takes from it

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.deadline_s
        while True:
            self._advance()
            with self.changed:
                if reached():
                    return
                self.changed.wait(_POLL_INTERVAL_S)
            if time.monotonic() >= deadline:
                self.fail(f"{what}: not there within {self.deadline_s:g} s")
