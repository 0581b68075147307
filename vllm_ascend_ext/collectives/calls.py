# SPDX-License-Identifier: Apache-2.0
"""Runs the calls of one process group: counted, waited for with a deadline, and failing with errors that name
ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vllm_ascend_ext.collectives.roll_call import RollCall, world_ranks
from vllm_ascend_ext.runner.step_cost import Method, Place

_LONGEST_SLICE_S = 1.0  # of a wait, after which a rank looks whether others failed
_ROLL_CALL_SLICES = 4


class CollectiveError(RuntimeError):
    """Reports that a collective failed or reached its deadline. The group cannot be used any more.

    Attributes:
        silent_ranks: world ranks that reported no failure of their own: dead, hanging, or not yet there.
    """

    def __init__(self, message: str, silent_ranks: tuple[int, ...]) -> None:
        super().__init__(message)
        self.silent_ranks = silent_ranks


@dataclass(slots=True)
class Traffic:
    """Counts what this rank did with one operation.

    Attributes:
        rows: rows of its inputs, padding included.
        bytes: sent by this rank, by the ring algorithm's count: an all-gather sends the input to R - 1
            ranks, a reduce-scatter (R - 1) / R of its input, an all-reduce twice that.
    """

    calls: int = 0
    rows: int = 0
    bytes: int = 0


class GroupCalls:
    """Runs the calls of one process group.

    Args:
        group: the group, of which this process is a member.
        timeout_s: deadline of one operation. A failure is raised up to half of it, at most 4 s, later.
        name: name of the group, the same on all its ranks, for errors.
        stream_ordered: the backend (NCCL, HCCL) works in stream order. Waiting then only makes the current
            stream wait, so that it can be captured, and the deadline is the one the group was created with.
    """

    def __init__(
        self, group: dist.ProcessGroup, timeout_s: float, name: str, *, stream_ordered: bool = False
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s={timeout_s} is not positive")
        self.name = name
        self.rank: int = group.rank()
        self.num_ranks: int = group.size()
        self.world_ranks = world_ranks(group)
        self.group = group
        self._timeout_s = timeout_s
        self._stream_ordered = stream_ordered
        self._traffic: dict[str, Traffic] = {}
        self._failure: CollectiveError | None = None
        self._slice_s = min(_LONGEST_SLICE_S, timeout_s / 8)
        self._roll_call = RollCall(group, name)

    def traffic(self) -> dict[str, dict[str, int]]:
        """Returns the traffic of each operation since the last `reset_traffic` as {"calls", "rows", "bytes"}
        (`Traffic`)."""
        return {op: asdict(counts) for op, counts in self._traffic.items()}

    def reset_traffic(self) -> None:
        """Forgets all counts."""
        self._traffic.clear()

    def cost_places(self) -> list[Place]:
        """Returns the places of the backend's work, which is not that of the feature that makes the calls."""
        return [Method("collectives", self, name, is_theirs=True) for name in ("_begin", "_wait")]

    def _count(self, op: str, x: torch.Tensor, sent: int) -> None:
        counts = self._traffic.setdefault(op, Traffic())
        counts.calls += 1
        counts.rows += x.shape[0] if x.dim() else 1
        counts.bytes += sent

    def _run(self, op: str, sent: int, start: Callable[[], Any]) -> None:
        """Starts one collective and waits for it."""
        self._begin(op, sent, start)()

    def _begin(self, op: str, sent: int, start: Callable[[], Any]) -> Callable[[], None]:
        """Starts one collective; the result waits for it, to be called once. The deadline counts from here."""
        if self._failure is not None:
            raise self._failure
        deadline = time.monotonic() + self._timeout_s
        with self._naming_ranks(op, sent):
            work = start()

        def finish() -> None:
            with self._naming_ranks(op, sent):
                if self._stream_ordered:
                    work.wait()
                else:
                    self._wait(work, deadline)

        return finish

    @contextmanager
    def _naming_ranks(self, op: str, sent: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as cause:
            self._failure = self._failed(op, sent, cause)
            raise self._failure from cause

    def _wait(self, work: dist.Work, deadline: float) -> None:
        """Waits in slices, because a backend tells only the neighbours of a dead rank; see `RollCall`."""
        while True:
            remaining_s = max(deadline - time.monotonic(), 0.001)
            try:
                work.wait(timedelta(seconds=min(remaining_s, self._slice_s)))
                return
            except RuntimeError:
                if work.is_completed():
                    work.wait()  # raises what it failed with, unless it finished just now
                    return
                if time.monotonic() >= deadline:
                    raise RuntimeError(f"not finished within {self._timeout_s:g} s") from None
                if reported := self._roll_call.reported():
                    raise RuntimeError(f"it failed on world ranks {reported}") from None

    def _failed(self, op: str, sent: int, cause: RuntimeError) -> CollectiveError:
        silent = self._roll_call.report(wait_s=_ROLL_CALL_SLICES * self._slice_s)
        if silent is None:
            verdict = "the group's store cannot be reached to ask which ranks are alive"
        elif silent:
            verdict = f"world ranks {silent} are silent (dead, hanging, or not in this call)"
        else:
            verdict = "all ranks report a failure"
        return CollectiveError(
            f"{op} of group {self.name!r} failed on world rank {self.world_ranks[self.rank]} of "
            f"{list(self.world_ranks)}, {sent} bytes to send: {cause}; {verdict}",
            tuple(silent or ()),
        )
