# SPDX-License-Identifier: Apache-2.0
"""Judges what a step means for each request, by request id: status, and the accepted tokens that count.

The worker samples before the scheduler has judged: it may sample past a stop, and under asynchronous scheduling
even a step past it. A frame holds what the engine puts out, so the same judgement is made here, with the engine's
own rule.

A request's rows: RUNNING with tokens or SKIPPED without (a part of a prompt), PREEMPTED when it loses its place,
or, where the engine does not tell of that, before it comes back; RECOVERED when it comes back (with tokens or
without); FINISHED with its last tokens, or, when the engine ended it (an abort, a stop string that only the front
end sees), without any. After FINISHED there is no row.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllm_ascend_ext.mtp_output.frames.section import RequestStatus

NO_ROW = -1


@dataclass(frozen=True, slots=True)
class StepEvents:
    """Holds what the scheduler did before a step, by request id; the same on all ranks.

    new: seen for the first time, each with what `History.start` takes. finished: ended since the last step.
    sent_back: ended by the scheduler, which has no room for them, while what steps under way sample for them still
    counts. preempted: lost their place before it. resumed: came back in it. num_output_tokens: what the engine has
    of a request, where that is known for sure.
    """

    new: Mapping[str, Any] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    sent_back: tuple[str, ...] = ()
    preempted: tuple[str, ...] = ()
    resumed: frozenset[str] = frozenset()
    num_output_tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class StepRows:
    """Holds the rows of a frame, one entry each.

    sampled: the row of the step's batch that it takes its tokens from, `NO_ROW` for none.
    num_accepted: tokens that count.
    """

    request_ids: list[str] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    num_accepted: list[int] = field(default_factory=list)
    status: list[RequestStatus] = field(default_factory=list)

    def add(self, request_id: str, status: RequestStatus, sampled: int = NO_ROW, num_accepted: int = 0) -> None:
        """Appends one row."""
        self.request_ids.append(request_id)
        self.sampled.append(sampled)
        self.num_accepted.append(num_accepted)
        self.status.append(status)

    def parts(self, max_rows: int) -> Iterator[StepRows]:
        """Yields the rows in order, at most `max_rows` at a time."""
        for begin in range(0, len(self.request_ids), max_rows):
            part = slice(begin, begin + max_rows)
            yield StepRows(self.request_ids[part], self.sampled[part], self.num_accepted[part], self.status[part])


class History(Protocol):
    """Applies the engine's rule of what counts, with each request's output so far."""

    def start(self, request_id: str, request: Any, /) -> None:
        """Begins a request, as `StepEvents.new` has it; an earlier one of this id has been forgotten."""
        ...

    def accept(self, request_id: str, token_ids: list[int]) -> tuple[int, bool]:
        """Takes up a step's tokens: how many of them count, and whether the request then ends."""
        ...

    def num_tokens(self, request_id: str) -> int:
        """Returns how many output tokens were taken up so far."""
        ...

    def forget(self, request_id: str) -> None:
        """Drops a request that has ended."""
        ...


class OutputMismatchError(RuntimeError):
    """Reports that the engine has other output of a request than the frames say: tokens were taken back, the
    request goes on after its end (streaming input), or this is a bug."""


class RequestStates:
    """Tracks the requests of one replica, on the rank that sends."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._open: set[str] = set()
        self._preempted: set[str] = set()  # of the open ones
        self._closed: set[str] = set()  # FINISHED was said, but the engine has not yet told that it knows

    def begin(self, events: StepEvents) -> StepRows:
        """Returns the rows of what happened before a step; called for every step, before `add_sampled`."""
        rows = StepRows()
        for request_id in (*events.finished, *events.sent_back):
            if request_id in self._open:
                rows.add(request_id, RequestStatus.FINISHED)
                self._history.forget(request_id)
            self._open.discard(request_id)
            self._preempted.discard(request_id)
            self._closed.discard(request_id)
        # a reset of the prefix cache preempts, too, and only tells who comes back
        for request_id in (*events.preempted, *sorted(events.resumed)):
            if request_id in self._open and request_id not in self._preempted:
                rows.add(request_id, RequestStatus.PREEMPTED)
                self._preempted.add(request_id)
        self._preempted -= events.resumed
        for request_id, request in events.new.items():
            if request_id in self._open or request_id in self._closed:
                raise OutputMismatchError(
                    f"request {request_id!r} begins again and has not ended: it is a session with streaming "
                    "input, which takes its last token back and goes on after a stop. Frames cannot say that; "
                    "send each input as a request of its own, or set mtp_output.enabled to false"
                )
            self._open.add(request_id)
            self._history.start(request_id, request)
        for request_id, expected in events.num_output_tokens.items():
            if request_id in self._open and self._history.num_tokens(request_id) != expected:
                raise OutputMismatchError(
                    f"request {request_id!r} has {expected} output tokens in the engine and "
                    f"{self._history.num_tokens(request_id)} in the frames: the engine took tokens back (a reset "
                    "of the prefix cache with running requests, a failed KV load), which frames cannot"
                )
        return rows

    def add_sampled(
        self,
        rows: StepRows,
        events: StepEvents,
        request_ids: Sequence[str],
        token_ids: Sequence[list[int]],
        ended: Container[str] = (),
    ) -> None:
        """Appends the rows of what a step sampled.

        Args:
            request_ids: ids of the step's batch.
            token_ids: tokens that the device accepted, one list a request; an empty one is a prompt that goes on.
            ended: requests that the engine ended while the step ran: their tokens do not count any more.
        """
        for row, (request_id, tokens) in enumerate(zip(request_ids, token_ids, strict=True)):
            if request_id in self._closed or request_id in ended:
                continue
            if request_id not in self._open:
                raise OutputMismatchError(f"tokens of request {request_id!r}, which nobody has started")
            self._add(rows, request_id, row, tokens, is_resumed=request_id in events.resumed)

    def _add(self, rows: StepRows, request_id: str, row: int, tokens: list[int], *, is_resumed: bool) -> None:
        num_accepted, is_finished = self._history.accept(request_id, tokens) if tokens else (0, False)
        if is_finished:
            status = RequestStatus.FINISHED
            self._open.discard(request_id)
            self._closed.add(request_id)
            self._history.forget(request_id)
        elif is_resumed:
            status = RequestStatus.RECOVERED
        else:
            status = RequestStatus.RUNNING if num_accepted else RequestStatus.SKIPPED
        rows.add(request_id, status, row, num_accepted)
