# SPDX-License-Identifier: Apache-2.0
"""Moves counts from the recorders to the host, summed over the ranks, off the main stream.

Orders, each by an event or by the order within one stream:

1. main: recorders write → `take_into` a buffer → event A (`taken`).  Same stream.
2. side: wait A → (sum) → copy to pinned memory → event B (`copied`).  A orders the read after the write.
3. host: B queried true → read pinned memory; only then is the buffer free.  B orders this read after the copy.
4. main: `take_into` the buffer again.  After 3, so after the side stream's last access to it.

Buffers, pinned memory and events live as long as the `Snapshots` object, and `Device.keep_for` tells the allocator
of the side stream, so no block is reused while that stream uses it. Nothing else crosses streams.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from vllm_ascend_ext.device import Device
from vllm_ascend_ext.eplb_load.handover import ExpertLoad
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder, LocalLoad
from vllm_ascend_ext.eplb_load.transit import AggregationError, AggregationStats, Buffer, Transit

__all__ = ["AggregationError", "SumOverRanks", "Snapshots"]

_POLL_INTERVAL_S = 0.0002


class SumOverRanks(Protocol):
    """Sums snapshots over the ranks: on the host (`HostSum`) or on the device (`DeviceSum`).

    The thread that runs the model calls all methods but `on_copied`.

    Attributes:
        max_routed_ids: largest number of routed ids that a recorder may hold, so that no sum overflows.
        has_thread: whether a thread of its own drains the copies; the model's thread then does so only when no
            buffer is left.
    """

    max_routed_ids: int
    has_thread: bool

    def start_copy(self, buffer: Buffer) -> None:
        """Submits a buffer's transfer to the host, on the side stream, which has waited for `buffer.taken`."""
        ...

    def send_zeros(self) -> None:
        """Takes part in a tick for which this rank has no snapshot."""
        ...

    def on_copied(self, buffer: Buffer) -> None:
        """Reads what was copied, after `buffer.copied`, and so frees the buffer. The caller holds the lock."""
        ...

    def is_drained(self) -> bool:
        """Returns whether no snapshot is on its way."""
        ...

    def carried_M(self) -> torch.Tensor:  # noqa: N802
        """Returns sums ``[M]`` int64 on the host that wait for this rank's next snapshot; waits for the device."""
        ...

    def explain(self, problem: str) -> str:
        """Returns the text about an overdue snapshot, with the silent ranks added where they are known."""
        ...

    def reset(self) -> None:
        """Forgets the sums that wait for this rank's next snapshot."""
        ...

    def close(self) -> None:
        """Ends the thread that sums, where there is one. Snapshots on their way are lost."""
        ...


class Snapshots:
    """Takes snapshots of the recorders and hands over their sums over the ranks.

    All ranks call `snapshot` with the same steps in the same order. The thread that runs the model calls all
    public methods.

    Args:
        recorders: recorders of this rank; the same layers and experts on all ranks.
        device: the recorders' device.
        make_sum: makes the sum over the ranks: `HostSum` or `DeviceSum` with all arguments but the last.
        step: step after which the first hand-over begins.
        num_buffers: how many snapshots may be in transfer at the same time.
        deadline_s: longest time that any wait may take, in seconds.

    Raises:
        ValueError: there is nothing to do, or a sum of the ranks' counters could overflow.
    """

    def __init__(
        self,
        recorders: Sequence[ExpertLoadRecorder],
        device: Device,
        make_sum: Callable[[Transit], SumOverRanks],
        *,
        step: int = 0,
        num_buffers: int = 2,
        deadline_s: float = 60.0,
    ) -> None:
        if not recorders or num_buffers < 1 or deadline_s <= 0:
            raise ValueError(f"{len(recorders)} recorders, {num_buffers} buffers, a deadline of {deadline_s:g} s")
        self.recorders = list(recorders)
        shapes = [recorder.load_LE.shape for recorder in recorders]
        self._transit = Transit(shapes, device, step=step, num_buffers=num_buffers, deadline_s=deadline_s)
        self._sum = make_sum(self._transit)
        if any(recorder.max_routed_ids > self._sum.max_routed_ids for recorder in recorders):
            raise ValueError(
                f"the ranks' counters could overflow their sum: make the recorders with "
                f"max_routed_ids={self._sum.max_routed_ids}"
            )

    @property
    def stats(self) -> AggregationStats:
        """Returns what this rank has seen so far."""
        return self._transit.stats

    @property
    def newest_tick(self) -> int:
        """Returns the step of the newest snapshot, taken or merged."""
        return self._transit.newest_tick

    def snapshot(self, step: int, *, required: bool = False) -> bool:
        """Sends what was counted until now on its way; returns at once when no buffer is free, unless `required`.

        Args:
            step: last step whose counts are complete; greater than at the last call.
            required: whether to wait for a buffer, so that one hand-over ends at exactly this step. The same on
                all ranks.

        Returns:
            Whether a buffer was free; else the counts stay and join the next snapshot.

        Raises:
            ValueError: `step` is not greater.
            RuntimeError: a graph is being captured.
            AggregationError: a rank is gone, or the deadline has passed.
        """
        transit = self._transit
        if transit.device.is_capturing():
            raise RuntimeError("a snapshot of expert load cannot be captured in a graph")
        self._advance()
        if step <= transit.newest_tick:
            raise ValueError(f"snapshot of step {step} after step {transit.newest_tick}")
        buffer = self._free_buffer(wait=required or self._nearly_full())
        if buffer is None:
            transit.stats.num_merged += 1
            self._sum.send_zeros()
            transit.merge(step)
            return False
        transit.stats.num_snapshots += 1
        buffer.step, buffer.previous_tick, buffer.required = step, transit.newest_tick, required
        buffer.started_s = time.monotonic()
        self._fill(buffer)
        transit.send(buffer)
        return True

    def poll(self) -> list[tuple[ExpertLoad, ...]]:
        """Returns the sums that are ready, oldest first, one `ExpertLoad` a recorder. Never blocks.

        Sums that nobody polls for merge into one another when there are many; none is lost.

        Raises:
            AggregationError: see `snapshot`.
        """
        transit = self._transit
        if transit.in_flight or transit.failure is not None:
            self._advance()
        if not transit.handover.has_ready:
            return []
        with transit.changed:
            return transit.handover.take_ready()

    def wait_until(self, step: int) -> None:
        """Blocks until everything up to `step`, at which a snapshot was required, can be polled.

        Raises:
            AggregationError: see `snapshot`.
        """
        self._wait(lambda: self._transit.handover.until >= step, f"the sum of expert load until step {step}")

    def drain(self) -> None:
        """Blocks until no snapshot is on its way. What was not handed over then is in `pending`.

        Raises:
            AggregationError: see `snapshot`.
        """
        self._wait(self._sum.is_drained, "the sum of the snapshots on their way")

    def pending(self, *, held: bool) -> list[LocalLoad]:
        """Returns what has been counted here and is neither handed over nor on its way; call `drain` before.

        Args:
            held: whether to add what has been summed over all ranks, but not handed over. It is the same on every
                rank, so for a total one rank alone adds it.
        """
        loads = [recorder.read() for recorder in self.recorders]
        if not held:
            return loads
        handover, carried_M = self._transit.handover, self._sum.carried_M()
        held_N = handover.held_N + carried_M[: handover.num_counters]
        carried_tokens = carried_M[handover.num_counters : -1].tolist()
        tokens = [a + b for a, b in zip(handover.held_tokens, carried_tokens, strict=True)]
        return [
            LocalLoad(load.load_LE + held_LE, load.num_tokens + num_tokens, load.num_steps)
            for load, held_LE, num_tokens in zip(loads, handover.split(held_N), tokens, strict=True)
        ]

    def reset(self) -> None:
        """Forgets all counts; call `drain` before, on all ranks, and let no rank step meanwhile."""
        for recorder in self.recorders:
            recorder.reset()
        with self._transit.changed:
            self._transit.handover.reset(self._transit.newest_tick)
        self._sum.reset()

    def close(self) -> None:
        """Ends the thread that sums, where there is one. Snapshots on their way are lost."""
        self._sum.close()

    def _fill(self, buffer: Buffer) -> None:
        """Moves the counts into a buffer and submits its transfer."""
        buffer.num_tokens = [
            recorder.take_into(part) for recorder, part in zip(self.recorders, buffer.parts, strict=True)
        ]
        buffer.taken.record()
        with self._transit.device.stream_switch(self._transit.side):
            buffer.taken.wait()
            self._sum.start_copy(buffer)
            buffer.copied.record()

    def _advance(self) -> None:
        """Does what the thread that runs the model has to do for the snapshots on their way."""
        transit = self._transit
        if not self._sum.has_thread or len(transit.in_flight) == len(transit.buffers):
            transit.drain_copied(self._sum.on_copied)
        if transit.failure is None and (problem := transit.overdue()):
            transit.fail(self._sum.explain(problem))
        if transit.failure is not None:
            raise transit.failure

    def _nearly_full(self) -> bool:
        """Returns whether a counter is half full, so that the next snapshot has to wait for a buffer."""
        return any(recorder.num_routed_ids > recorder.max_routed_ids // 2 for recorder in self.recorders)

    def _free_buffer(self, *, wait: bool) -> Buffer | None:
        free = self._transit.free
        if wait and not free:
            self._transit.stats.num_waits += 1
            self._wait(lambda: bool(free), "a free buffer for expert load")
        return free.popleft() if free else None  # only this thread takes from it

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        transit = self._transit
        deadline = time.monotonic() + transit.deadline_s
        while True:
            self._advance()
            with transit.changed:
                if reached():
                    return
                transit.changed.wait(_POLL_INTERVAL_S)
            if time.monotonic() >= deadline:
                transit.fail(f"{what}: not there within {transit.deadline_s:g} s")
