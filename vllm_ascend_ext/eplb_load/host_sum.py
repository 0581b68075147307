# SPDX-License-Identifier: Apache-2.0
"""Summing expert load on the host: copy to pinned memory on the side stream, then Gloo on a thread.

A round of the thread agrees on a step and sums everything until it: the step is the smallest that the ranks offer,
so a rank that lags behind, or a slow network, only makes rounds fewer and larger.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives
from vllm_ascend_ext.device import Device
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import ExpertLoadAggregator, Slot

logger = logging.getLogger(__name__)

_MAX_ENTRIES = 64  # snapshots on the host that wait for other ranks; later ones join the last
_ARRIVAL_POLL_S = 0.0005
_JOIN_S = 1.0


@dataclass(slots=True)
class _Entry:
    """A snapshot of this rank on the host."""

    step: int
    required: bool
    started_s: float
    load_N: torch.Tensor  # noqa: N815
    num_tokens: list[int]


class HostAggregator(ExpertLoadAggregator):
    """See the module.

    Args:
        collectives: of a group of its own, used by no other thread, in host memory; None for a single rank. Its
            deadline is the one that counts for a rank that is gone.
        others: see `ExpertLoadAggregator`.
    """

    def __init__(
        self,
        recorders: Sequence[ExpertLoadRecorder],
        device: Device,
        collectives: Collectives | None,
        *,
        step: int = 0,
        num_slots: int = 2,
        deadline_s: float = 60.0,
    ) -> None:
        super().__init__(recorders, device, step=step, num_slots=num_slots, deadline_s=deadline_s)
        self._collectives = collectives
        num_counters = self.handover.num_counters
        self._ways = {  # slot → what is copied, and the pinned memory it is copied to
            id(slot): (slot.load_M[:num_counters], device.pinned_empty([num_counters], torch.int32))
            for slot in self.slots
        }
        self._entries: list[_Entry] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ascend-ext-expert-load", daemon=True)
        self._thread.start()

    def ship(self, slot: Slot) -> None:
        """See `ExpertLoadAggregator.ship`: the copy to the host."""
        load_N, pinned_N = self._ways[id(slot)]
        pinned_N.copy_(load_N, non_blocking=True)

    def take_up(self) -> None:
        """See `ExpertLoadAggregator.take_up`: only what the thread, busy in a collective, leaves to be done."""
        if len(self.in_flight) == len(self.slots):
            self.collect()

    def skip(self) -> None:
        """See `ExpertLoadAggregator.skip`: the thread sees a tick without an entry."""

    def settled(self) -> bool:
        """See `ExpertLoadAggregator.settled`: all ticks are summed."""
        return self.summed_until >= self.newest_tick

    def arrive(self, slot: Slot) -> None:
        """See `ExpertLoadAggregator.arrive`."""
        load_N = self._ways[id(slot)][1].long()
        last = self._entries[-1] if self._entries else None
        if last is not None and len(self._entries) >= _MAX_ENTRIES and not last.required:
            last.load_N += load_N
            last.num_tokens = [a + b for a, b in zip(last.num_tokens, slot.num_tokens, strict=True)]
            last.step, last.required = slot.step, slot.required
        else:
            self._entries.append(_Entry(slot.step, slot.required, slot.started_s, load_N, slot.num_tokens))

    def close(self) -> None:
        """Ends the thread, or leaves it to the end of the process when it is stuck in a collective."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        self.device.bind_thread()
        try:
            while (offer := self._next_offer()) is not None:
                self._round(offer)
        except CollectiveError as error:
            problem = f"expert load after step {self.summed_until} could not be summed: {error}"
            logger.error("%s", problem)
            self.fail(problem)
        except Exception as error:  # the thread's end must not go unnoticed
            logger.exception("the thread that sums expert load has failed")
            self.fail(f"the thread that sums expert load has failed: {error!r}")

    def _next_offer(self) -> int | None:
        """The newest step until which this rank's snapshots are here, once it is news; None to end."""
        while True:
            self.collect()
            if problem := self.overdue():
                self.fail(problem)
            with self.changed:
                if self._closing or self.failure is not None:
                    return None
                required = next((entry.step for entry in self._entries if entry.required), None)
                known = self.in_flight[0].previous_tick if self.in_flight else self.newest_tick
                offer = known if required is None else required
                if offer > self.summed_until:
                    return offer
                # an event cannot notify, so what is in flight is asked for
                self.changed.wait(_ARRIVAL_POLL_S if self.in_flight else None)

    def _round(self, offer: int) -> None:
        step = self._agree(offer)
        with self.changed:
            taken = [entry for entry in self._entries if entry.step <= step]
            self._entries = self._entries[len(taken) :]
        sum_M = torch.zeros(self.handover.num_elements, dtype=torch.int64)
        for entry in taken:
            sum_M[: self.handover.num_counters] += entry.load_N
            sum_M[self.handover.num_counters : -1] += torch.tensor(entry.num_tokens)
        sum_M[-1] = int(not taken or taken[-1].step != step)
        started_s = taken[-1].started_s if taken else 0.0
        if self._collectives is not None:
            self._collectives.all_reduce_(sum_M)
        self.deliver(step, sum_M, started_s)

    def _agree(self, offer: int) -> int:
        """The smallest of the steps that the ranks offer."""
        if self._collectives is None:
            return offer
        offers_R = torch.empty(self._collectives.num_ranks, dtype=torch.int64)
        self._collectives.all_gather_into(offers_R, torch.tensor([offer]))
        return int(offers_R.min())
