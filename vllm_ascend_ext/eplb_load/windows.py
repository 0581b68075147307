# SPDX-License-Identifier: Apache-2.0
"""Expert load of a runner, step by step: when snapshots are taken, and what was handed over so far."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from vllm_ascend_ext.eplb_load.recorder import LocalLoad
from vllm_ascend_ext.eplb_load.snapshots import Snapshots


@dataclass(slots=True)
class WindowStats:
    """Windows that were asked for: how many were not there yet, and for how long they were waited for."""

    num_windows: int = 0
    num_late: int = 0
    late_s: float = 0.0


class CollectedLoad:
    """The clock of the snapshots and their only consumer.

    The clock counts the ends of steps, which all ranks see alike. A snapshot is taken every `interval` steps, and
    where `mark` asks for one.

    Args:
        snapshots: snapshots of this runner's recorders.
        interval: steps from one snapshot to the next.
        is_first: whether `read` includes what all ranks handed over.
    """

    def __init__(self, snapshots: Snapshots, interval: int, *, is_first: bool) -> None:
        self.snapshots = snapshots
        self.window_stats = WindowStats()
        self.step = 0  # of the last one that ended
        self._interval, self.is_first = interval, is_first
        self.handed_LE = self._zeros()
        self.num_tokens = [0] * len(self.handed_LE)
        self.newest: list[torch.Tensor | None] = [None] * len(self.handed_LE)  # [L, E], with tokens in it
        self._baseline_LE, self._baseline_tokens = self._zeros(), list(self.num_tokens)
        self._marked = False
        self._at_mark: dict[int, list[torch.Tensor]] = {}

    def end_step(self) -> None:
        """Ends a step: takes a snapshot if it is time, and consumes what has arrived."""
        self.step += 1
        marked, self._marked = self._marked, False
        if marked:
            self._at_mark[self.step] = []
        if marked or self.step % self._interval == 0:
            self.snapshots.snapshot(self.step, required=marked)
        self.consume()

    def mark(self) -> int:
        """The present step will be the end of a window. On all ranks alike.

        Returns:
            Its number.
        """
        self._marked = True
        return self.step + 1

    def window(self, begin: int, end: int) -> list[torch.Tensor]:
        """The load ``[L, E]`` int64 of each recorder in the steps ``begin < step <= end``.

        `end` was marked. So was `begin`, or the window begins at the next mark, or at the start when it is not
        positive. Marks before `begin` are forgotten.

        Raises:
            AggregationError: not there within the deadline.
        """
        self.window_stats.num_windows += 1
        self.consume()
        if not self._at_mark[end]:
            started = time.monotonic()
            self.snapshots.wait_until(end)
            self.consume()
            self.window_stats.num_late += 1
            self.window_stats.late_s += time.monotonic() - started
        for step in [step for step in self._at_mark if step < begin]:
            del self._at_mark[step]
        begin_LE = self._at_mark[min(self._at_mark)] if begin > 0 else self._zeros()
        return [now - then for now, then in zip(self._at_mark[end], begin_LE, strict=True)]

    def consume(self) -> None:
        """Adds up what has arrived."""
        for loads in self.snapshots.poll():
            for index, load in enumerate(loads):
                self.handed_LE[index] += load.load_LE
                self.num_tokens[index] += load.num_tokens
                if load.num_tokens:
                    self.newest[index] = load.load_LE
            if loads[0].step_end in self._at_mark:
                self._at_mark[loads[0].step_end] = [load_LE.clone() for load_LE in self.handed_LE]

    def read(self) -> list[LocalLoad]:
        """What this rank reports since the last `reset`, one a recorder; waits for what is on its way."""
        self.snapshots.drain()
        self.consume()
        pending = self.snapshots.pending(held=self.is_first)
        if not self.is_first:
            return pending
        return [
            LocalLoad(
                load.load_LE + self.handed_LE[i] - self._baseline_LE[i],
                load.num_tokens + self.num_tokens[i] - self._baseline_tokens[i],
                load.num_steps,
            )
            for i, load in enumerate(pending)
        ]

    def reset(self) -> None:
        """Forget what was counted so far; no rank may step meanwhile."""
        self.snapshots.drain()
        self.consume()
        self.snapshots.reset()
        self._baseline_LE = [load_LE.clone() for load_LE in self.handed_LE]
        self._baseline_tokens = list(self.num_tokens)

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros(recorder.load_LE.shape, dtype=torch.int64) for recorder in self.snapshots.recorders]
