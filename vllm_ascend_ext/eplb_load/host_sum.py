# SPDX-License-Identifier: Apache-2.0
"""Sums expert load on the host: copies it to pinned memory on the side stream, then sums with Gloo on a thread.

A round of the thread agrees on a step and sums everything until it: the step is the smallest that the ranks offer,
so a rank that lags behind, or a slow network, only makes rounds fewer and larger.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import torch

from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX
from vllm_ascend_ext.eplb_load.transit import Buffer, Transit

logger = logging.getLogger(__name__)

_MAX_ENTRIES = 64  # snapshots on the host that wait for other ranks; later ones join the last
_ARRIVAL_POLL_S = 0.0005
_JOIN_S = 1.0


@dataclass(slots=True)
class _Entry:
    """Holds a snapshot of this rank on the host."""

    step: int
    required: bool
    started_s: float
    load_N: torch.Tensor  # noqa: N815
    num_tokens: list[int]


class HostSum:
    """Sums snapshots on a thread of the host, as one form of `SumOverRanks`.

    Args:
        collectives: collectives of a group of its own, used by no other thread, in host memory; None for a single
            rank. Their deadline is the one that counts for a rank that is gone.
        transit: snapshots and sums on their way.
    """

    max_routed_ids = INT32_MAX  # a sum of several ranks' counters is added up in int64
    has_thread = True

    def __init__(self, collectives: Collectives | None, transit: Transit) -> None:
        self._collectives, self._transit = collectives, transit
        self._num_counters = transit.handover.num_counters
        self._copies = [  # by buffer: what is copied, and the pinned memory it is copied to
            (buffer.load_M[: self._num_counters], transit.device.pinned_empty([self._num_counters], torch.int32))
            for buffer in transit.buffers
        ]
        self._entries: list[_Entry] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ascend-ext-expert-load", daemon=True)
        self._thread.start()

    def start_copy(self, buffer: Buffer) -> None:
        """Submits the copy of the counts to the host."""
        load_N, pinned_N = self._copies[buffer.index]
        pinned_N.copy_(load_N, non_blocking=True)

    def send_zeros(self) -> None:
        """Does nothing: the thread itself sees that a tick has no snapshot."""

    def on_copied(self, buffer: Buffer) -> None:
        """Keeps the counts for the thread's next round."""
        load_N = self._copies[buffer.index][1].long()
        last = self._entries[-1] if self._entries else None
        if last is not None and len(self._entries) >= _MAX_ENTRIES and not last.required:
            last.load_N += load_N
            last.num_tokens = [a + b for a, b in zip(last.num_tokens, buffer.num_tokens, strict=True)]
            last.step, last.required = buffer.step, buffer.required
        else:
            entry = _Entry(buffer.step, buffer.required, buffer.started_s, load_N, buffer.num_tokens)
            self._entries.append(entry)

    def is_drained(self) -> bool:
        """Returns whether the snapshots of all ticks are summed."""
        return self._transit.summed_until >= self._transit.newest_tick

    def carried_M(self) -> torch.Tensor:  # noqa: N802
        """Returns zeros: the host keeps back nothing."""
        return torch.zeros(self._transit.handover.num_elements, dtype=torch.int64)

    def explain(self, problem: str) -> str:
        """Returns the text as it is: a late snapshot has not left this rank, so no other rank is to blame."""
        return problem

    def reset(self) -> None:
        """Does nothing: the host keeps back nothing."""

    def close(self) -> None:
        """Ends the thread, or leaves it to the end of the process when it is stuck in a collective."""
        with self._transit.changed:
            self._closing = True
            self._transit.changed.notify_all()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        transit = self._transit
        transit.device.bind_thread()
        try:
            while (offer := self._next_offer()) is not None:
                self._round(offer)
        except CollectiveError as error:
            problem = f"expert load after step {transit.summed_until} could not be summed: {error}"
            logger.error("%s", problem)
            transit.fail(problem)
        except Exception as error:  # the thread's end must not go unnoticed
            logger.exception("the thread that sums expert load has failed")
            transit.fail(f"the thread that sums expert load has failed: {error!r}")

    def _next_offer(self) -> int | None:
        """Returns the next step to offer the other ranks, once all snapshots until then are here; None to end."""
        transit = self._transit
        while True:
            transit.drain_copied(self.on_copied)
            if problem := transit.overdue():
                transit.fail(problem)
            with transit.changed:
                if self._closing or transit.failure is not None:
                    return None
                required = next((entry.step for entry in self._entries if entry.required), None)
                known = transit.in_flight[0].previous_tick if transit.in_flight else transit.newest_tick
                offer = known if required is None else required
                if offer > transit.summed_until:
                    return offer
                # an event cannot notify, so the copies in flight are polled
                transit.changed.wait(_ARRIVAL_POLL_S if transit.in_flight else None)

    def _round(self, offer: int) -> None:
        step = self._agree(offer)
        with self._transit.changed:
            taken = [entry for entry in self._entries if entry.step <= step]
            self._entries = self._entries[len(taken) :]
        sum_M = torch.zeros(self._transit.handover.num_elements, dtype=torch.int64)
        for entry in taken:
            sum_M[: self._num_counters] += entry.load_N
            sum_M[self._num_counters : -1] += torch.tensor(entry.num_tokens)
        sum_M[-1] = int(not taken or taken[-1].step != step)
        started_s = taken[-1].started_s if taken else 0.0
        if self._collectives is not None:
            self._collectives.all_reduce_(sum_M)
        self._transit.add_sum(step, sum_M, started_s)

    def _agree(self, offer: int) -> int:
        """Returns the smallest of the steps that the ranks offer."""
        if self._collectives is None:
            return offer
        offers_R = torch.empty(self._collectives.num_ranks, dtype=torch.int64)
        self._collectives.all_gather_into(offers_R, torch.tensor([offer]))
        return int(offers_R.min())
