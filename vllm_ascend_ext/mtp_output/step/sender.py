# SPDX-License-Identifier: Apache-2.0
"""Sends a replica's steps as frames: judges them, counts what was accepted, and builds the sections."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vllm_ascend_ext.mtp_output.acceptance import Acceptance
from vllm_ascend_ext.mtp_output.frames.section import Int32Array, RequestStatus, Section
from vllm_ascend_ext.mtp_output.sender import SenderStats
from vllm_ascend_ext.mtp_output.step.device_copy import PackedShape
from vllm_ascend_ext.mtp_output.step.frame_builder import sections_of_step
from vllm_ascend_ext.mtp_output.step.request_states import NO_ROW, History, RequestStates, StepEvents, StepRows


class Outlet(Protocol):
    """Describes where frames go: `EngineOutlet`."""

    def send(self, step: int, target: Section, draft: Section | None = None, /) -> int:
        """Blocks until the frame is in the channel."""
        ...

    @property
    def stats(self) -> SenderStats:
        """Returns the ring's statistics."""
        ...

    def close(self) -> None:
        """Closes the outlet; no frame follows."""
        ...


@dataclass(slots=True)
class StepSenderStats:
    """Counts what was sent. num_frames: frames. latency_s: sum over frames of the seconds from sampling to being
    in the ring."""

    num_frames: int = 0
    latency_s: float = 0.0
    acceptance: Acceptance = field(default_factory=Acceptance)


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """Holds a step's batch on the host.

    request_ids, token_ids: id and tokens of each row; no tokens where a prompt goes on.
    words_N: the buffer, of `shape`; counts and statuses in it are overwritten.
    sampled_s: time of sampling, by `time.monotonic`.
    """

    request_ids: Sequence[str]
    token_ids: Sequence[list[int]]
    shape: PackedShape
    words_N: Int32Array
    sampled_s: float


class StepSender:
    """Sends a replica's steps; one thread at a time calls `send`, in the order of the steps.

    Args:
        outlet: the outlet of the frames.
        history: the engine's rule.
        top_k: log-probabilities that a frame carries at most, beside the sampled token's own; 0: none at all.
        max_rows: rows of a frame at most; no fewer than a batch has.
    """

    def __init__(self, outlet: Outlet, history: History, *, top_k: int, max_rows: int) -> None:
        self.stats = StepSenderStats()
        self.outlet, self._top_k, self._max_rows = outlet, top_k, max_rows
        self._states = RequestStates(history)
        self._announced: deque[tuple[int, Sequence[str]]] = deque()

    def announce(self, step: int, finished: Sequence[str]) -> None:
        """Notes requests that the engine has ended, which `step` will tell. Tokens that earlier steps, if still on
        their way, have sampled for them are dropped, as the engine will. Any thread may call it, in the order of
        the steps."""
        if finished:
            self._announced.append((step, finished))

    def send(self, step: int, events: StepEvents, sampled: SampledBatch | None) -> list[str]:
        """Judges a step and sends its frame, none if there is nothing to say.

        Returns:
            The requests that what was sampled has ended.

        Raises:
            ChannelError: the reader did not keep up, or is gone.
            OutputMismatchError: see there.
        """
        rows = self._states.begin(events)
        while self._announced and self._announced[0][0] <= step:  # told; the id may be in use again
            self._announced.popleft()
        ended = {request_id for _, finished in self._announced.copy() for request_id in finished}
        batch = () if sampled is None else sampled.request_ids
        # in frames of their own where they do not fit, or where an id that ended is in use again
        if len(rows.request_ids) + len(batch) > self._max_rows or not set(rows.request_ids).isdisjoint(batch):
            for part in rows.parts(self._max_rows):
                self._send(step, part, None)
            rows = StepRows()
        if sampled is None:
            self._send(step, rows, None)
            return []
        self._states.add_sampled(rows, events, sampled.request_ids, sampled.token_ids, ended)
        self._count(rows, sampled)
        self._send(step, rows, sampled)
        return [
            request_id
            for request_id, status, row in zip(rows.request_ids, rows.status, rows.sampled, strict=True)
            if status == RequestStatus.FINISHED and row != NO_ROW
        ]

    @property
    def outlet_stats(self) -> SenderStats:
        """Returns the ring's statistics."""
        return self.outlet.stats

    def close(self) -> None:
        """Closes the outlet; no frame follows."""
        self.outlet.close()

    def _send(self, step: int, rows: StepRows, sampled: SampledBatch | None) -> None:
        if not rows.request_ids:
            return
        if sampled is None:
            target, draft = sections_of_step(rows, None, None, self._top_k)
        else:
            target, draft = sections_of_step(rows, sampled.shape, sampled.words_N, self._top_k)
        self.outlet.send(step, target, draft)
        self.stats.num_frames += 1
        if sampled is not None:
            self.stats.latency_s += time.monotonic() - sampled.sampled_s

    def _count(self, rows: StepRows, sampled: SampledBatch) -> None:
        """Counts as vLLM does: of requests that had not ended before, all that was sampled, also beyond a stop."""
        counted = [row for row in rows.sampled if row != NO_ROW]
        _, draft_BW = sampled.shape.split(sampled.words_N)
        num_drafts = [0] * len(sampled.token_ids) if draft_BW is None else draft_BW[:, 0].tolist()
        self.stats.acceptance.add(
            [num_drafts[row] for row in counted], [len(sampled.token_ids[row]) for row in counted]
        )
