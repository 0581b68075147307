# SPDX-License-Identifier: Apache-2.0
"""Decides when a runner's snapshots are taken, and adds up the expert load that was handed over."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from vllm_ascend_ext.eplb_load.recorder import LocalLoad
from vllm_ascend_ext.eplb_load.snapshots import Snapshots


@dataclass(slots=True)
class WindowStats:
    """Counts the windows that were asked for.

    Attributes:
        num_windows: windows asked for.
        num_late: windows whose sum was not there yet.
        late_s: total time waited for late windows, in seconds.
        num_without_gain: windows by which no placement could be better than the present one, so that no policy was
            asked.
    """

    num_windows: int = 0
    num_late: int = 0
    late_s: float = 0.0
    num_without_gain: int = 0


class CollectedLoad:
    """Takes the snapshots at the ends of steps, and is the only consumer of their sums.

    All ranks count the ends of steps alike. A snapshot is taken every `interval` steps, and where `mark` asks for
    one.

    Args:
        snapshots: snapshots of this runner's recorders.
        interval: number of steps from one snapshot to the next.
        is_first: whether `read` includes what all ranks handed over.
    """

    def __init__(self, snapshots: Snapshots, interval: int, *, is_first: bool) -> None:
        self.snapshots = snapshots
        self.window_stats = WindowStats()
        self.step = 0  # the last step that has ended
        self._interval, self.is_first = interval, is_first
        self.handed_LE = self._zeros()
        self.num_tokens = [0] * len(self.handed_LE)
        # [L, E], the newest hand-over that counted any token
        self.newest: list[torch.Tensor | None] = [None] * len(self.handed_LE)
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
        """Marks the present step as an end of a window; all ranks mark the same steps.

        Returns:
            Number of the present step.
        """
        self._marked = True
        return self.step + 1

    def has_ended(self, step: int) -> bool:
        """Returns whether a step has ended on this rank, and so on all."""
        return step <= self.step

    def window(self, begin: int, end: int) -> list[torch.Tensor]:
        """Returns the load ``[L, E]`` int64 of each recorder in the steps ``begin < step <= end``.

        Marks before `begin` are forgotten.

        Args:
            begin: step after which the window begins: the first mark not before it, or the start of the runner
                where `begin` is not positive.
            end: last step of the window, which was marked.

        Raises:
            AggregationError: the load is not there within the deadline.
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

    def note_no_gain(self) -> None:
        """Counts a window by which no policy is asked."""
        self.window_stats.num_without_gain += 1

    def consume(self) -> None:
        """Adds up the sums that have arrived."""
        for loads in self.snapshots.poll():
            for index, load in enumerate(loads):
                self.handed_LE[index] += load.load_LE
                self.num_tokens[index] += load.num_tokens
                if load.num_tokens:
                    self.newest[index] = load.load_LE
            if loads[0].step_end in self._at_mark:
                self._at_mark[loads[0].step_end] = [load_LE.clone() for load_LE in self.handed_LE]

    def read(self) -> list[LocalLoad]:
        """Returns this rank's loads since the last `reset`, one a recorder; waits for snapshots on their way."""
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
        """Forgets what was counted so far; no rank may step meanwhile."""
        self.snapshots.drain()
        self.consume()
        self.snapshots.reset()
        self._baseline_LE = [load_LE.clone() for load_LE in self.handed_LE]
        self._baseline_tokens = list(self.num_tokens)

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros(recorder.load_LE.shape, dtype=torch.int64) for recorder in self.snapshots.recorders]
