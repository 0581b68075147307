# SPDX-License-Identifier: Apache-2.0
"""Holds the snapshots on their way to the host and the sums on their way to the consumer, under one lock.

The thread that runs the model sends snapshots and takes sums; where the host sums, a thread of its own drains the
copies and adds the sums (`host_sum.py`). Both meet here and nowhere else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.device import Device
from vllm_ascend_ext.eplb_load.handover import HandOver

SIDE_STREAM = "expert load"


class AggregationError(RuntimeError):
    """Reports that counts could not be summed in time; the message names the step and the missing ranks."""


@dataclass(slots=True)
class AggregationStats:
    """Counts the snapshots and hand-overs that this rank has seen so far.

    Attributes:
        num_snapshots: snapshots that were sent on their way.
        num_merged: snapshots for which no buffer was free, so that their counts joined the next one.
        num_waits: snapshots that could not be merged and waited for a buffer.
        num_handovers: sums over all ranks handed over.
        handover_s: total time from snapshots to their sums over all ranks, in seconds.
    """

    num_snapshots: int = 0
    num_merged: int = 0
    num_waits: int = 0
    num_handovers: int = 0
    handover_s: float = 0.0


class Buffer:
    """Holds one snapshot on its way: persistent memory ``[M]`` (M as in `handover.py`) and two events.

    Attributes:
        taken: event of the main stream, after the counts were moved into the buffer.
        copied: event of the side stream, after the copy to the host.
    """

    def __init__(self, index: int, handover: HandOver, device: Device) -> None:
        self.index = index
        self.load_M = torch.zeros(handover.num_elements, dtype=torch.int32, device=device.device)
        self.parts = handover.split(self.load_M)
        self.taken, self.copied = device.event(), device.event()
        self.step = self.previous_tick = 0
        self.required = False
        self.num_tokens: list[int] = []
        self.started_s = 0.0


class Transit:
    """Holds what moves between the streams, the threads and the ranks.

    Args:
        shapes: ``(L, E)`` of each recorder.
        device: the recorders' device.
        step: step after which the first hand-over begins.
        num_buffers: how many snapshots may be in transfer at the same time.
        deadline_s: longest time that any wait may take, in seconds.

    Attributes:
        newest_tick: step of the newest snapshot, taken or merged.
        summed_until: step until which the sums of all ranks are here.
        in_flight: buffers whose copy may not have ended yet, oldest first.
        free: buffers that the next snapshots may use.
    """

    def __init__(
        self, shapes: Sequence[torch.Size], device: Device, *, step: int, num_buffers: int, deadline_s: float
    ) -> None:
        self.stats = AggregationStats()
        self.device, self.deadline_s = device, deadline_s
        self.handover = HandOver(shapes, step)
        self.side = device.stream(SIDE_STREAM)
        self.buffers = [Buffer(index, self.handover, device) for index in range(num_buffers)]
        for buffer in self.buffers:
            device.keep_for(buffer.load_M, self.side)
        self.changed = threading.Condition()  # guards everything below, and `handover`
        self.newest_tick = self.summed_until = step
        self.failure: AggregationError | None = None
        self.in_flight: deque[Buffer] = deque()
        self.free = deque(self.buffers)

    def send(self, buffer: Buffer) -> None:
        """Takes a buffer whose transfer was submitted; from now on another thread may query the buffer's event."""
        with self.changed:
            self.in_flight.append(buffer)
            self.newest_tick = buffer.step
            self.changed.notify_all()

    def merge(self, step: int) -> None:
        """Notes a step at which this rank takes no snapshot."""
        with self.changed:
            self.newest_tick = step
            self.changed.notify_all()

    def drain_copied(self, on_copied: Callable[[Buffer], None]) -> None:
        """Gives the buffers whose copy has ended to `on_copied`, in order, and frees them.

        Never blocks; any thread may call it. `on_copied` is called with `changed` held.
        """
        with self.changed:
            while self.in_flight and self.in_flight[0].copied.query():
                buffer = self.in_flight[0]
                on_copied(buffer)
                self.in_flight.popleft()
                self.free.append(buffer)
                self.changed.notify_all()

    def add_sum(self, step: int, sum_M: torch.Tensor, started_s: float) -> None:
        """Takes a sum over all ranks (see `HandOver.add`) whose newest snapshot was taken at `started_s`."""
        with self.changed:
            self.summed_until = step
            if self.handover.add(step, sum_M):
                self.stats.num_handovers += 1
                self.stats.handover_s += time.monotonic() - started_s
            self.changed.notify_all()

    def fail(self, problem: str) -> None:
        """Makes all later calls of `Snapshots` raise the first problem that was reported."""
        with self.changed:
            self.failure = self.failure or AggregationError(problem)
            self.changed.notify_all()

    def overdue(self) -> str | None:
        """Says in words what has not reached the host within the deadline; None where nothing is late."""
        if not self.in_flight:
            return None
        try:
            buffer = self.in_flight[0]
        except IndexError:  # another thread has just drained it
            return None
        if time.monotonic() - buffer.started_s < self.deadline_s or buffer.copied.query():
            return None
        what = f"the snapshot of expert load of step {buffer.step}"
        return f"{what} has not reached the host within {self.deadline_s:g} s"
