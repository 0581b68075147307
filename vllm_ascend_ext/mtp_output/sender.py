# SPDX-License-Identifier: Apache-2.0
"""Sends the frames of one data-parallel replica: numbers them and writes them to a ring."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, ChannelSizeError
from vllm_ascend_ext.mtp_output.frames.frame import FrameWriter, KnownRoster
from vllm_ascend_ext.mtp_output.frames.roster_change import MAX_CHANGES
from vllm_ascend_ext.mtp_output.frames.section import Section, Source
from vllm_ascend_ext.mtp_output.ring.backend import Backend, installed_backend
from vllm_ascend_ext.mtp_output.ring.end_state import State
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.ring.writer import RingWriter


@dataclass(frozen=True, slots=True)
class SenderStats:
    """Holds what a sender did since it was made.

    Attributes:
        frames, bytes: frames and bytes that were sent.
        blocked_s: seconds that it waited for room.
        send_s: seconds spent in `send`, waiting included.
        occupancy: frames that are not acknowledged, of `capacity`.
    """

    frames: int
    bytes: int
    blocked_s: float
    send_s: float
    occupancy: int
    capacity: int


class OutputSender:
    """Sends the frames of a replica; one sender per data-parallel replica.

    Args:
        instance: number of the engine; the same after a restart of the same engine, another for every other.
        replica: the data-parallel rank.
        size: size of the ring, as `RingSize.for_engine` computes it.
        timeout_s: how long a full ring may block `send`.
        backend: the encoder; by default the installed one.

    Raises:
        ChannelInUseError, ChannelSizeError, ChannelError: what `RingWriter` says.
    """

    def __init__(
        self,
        instance: int,
        replica: int,
        size: RingSize,
        *,
        timeout_s: float = 60.0,
        backend: Backend | None = None,
    ) -> None:
        backend = backend or installed_backend()
        self._timeout_s = timeout_s
        self._ring = RingWriter(instance, replica, size, backend)
        self._writer = FrameWriter(instance, replica, backend.rows)
        module = backend.module
        self._fast = module.FastSender(*self._ring.memory, Section, MAX_CHANGES) if module else None
        self._send_fast = self._fast.send if self._fast else _no_fast_path

    def send(
        self, step: int, target: Section, draft: Section | None = None, *, timeout_s: float | None = None
    ) -> int:
        """Sends one frame; returns its sequence.

        Args:
            timeout_s: seconds to wait while the ring is full, instead of the sender's own.

        Raises:
            ChannelFullError: the reader lives and did not make room in time. Nothing was sent; try again.
            ReaderGoneError: the ring is full and its reader is dead, or never came. Likewise.
            ChannelSizeError: the frame is larger than the ring was made for.
            ChannelClosedError: after `close`.
            ValueError: the sections are of the wrong sources, or impossible, or `step` is no unsigned 64-bit
                number.
        """
        sequence = self._send_fast(step, target, draft)
        if sequence < 0:
            sequence = self._send(step, target, draft, self._timeout_s if timeout_s is None else timeout_s)
        return sequence

    def _send(self, step: int, target: Section, draft: Section | None, timeout_s: float) -> int:
        """Sends a frame in Python, whatever the frame before was."""
        begin = time.monotonic_ns()
        self._check_open()
        if not 0 <= step < 2**64:
            raise ValueError(f"a frame's step is an unsigned 64-bit number, not {step}")
        if target.source != Source.TARGET or (draft is not None and draft.source != Source.DRAFT):
            raise ValueError("a frame has a section of the target and, after it, one of the draft or none")
        ring, writer = self._ring, self._writer
        if self._fast is not None and (known := self._fast.roster()) is not None:
            writer.adopt(KnownRoster(*known))
            self._fast.drop()  # until this frame is sent; an exception may come at any place
        sections = (target,) if draft is None else (target, draft)
        bound = writer.bound(sections)
        if (num_bytes := writer.roster_bytes(sections)) > ring.size.roster_bytes:
            raise ChannelSizeError(
                f"request ids of {num_bytes} bytes; {ring.path} was made for {ring.size.roster_bytes}"
            )
        at = ring.reserve(bound, timeout_s)
        num_bytes = writer.write(ring.frames, at, step, ring.sequence, sections)
        sequence = ring.publish(num_bytes)
        state = ring.state
        state[State.NUM_SENT] += 1
        state[State.BYTES_SENT] += num_bytes
        if self._fast is not None and (sent := writer.last_known) is not None:
            self._fast.adopt(*sent)
        state[State.SEND_NS] += time.monotonic_ns() - begin
        return sequence

    @property
    def path(self) -> Path:
        """Returns the path of the ring."""
        return self._ring.path

    @property
    def next_sequence(self) -> int:
        """Returns the sequence of the frame that `send` will send. It is not 0 at the beginning when a dead
        sender's ring is continued."""
        return self._ring.sequence

    @property
    def stats(self) -> SenderStats:
        """Returns what the sender did since it was made.

        Raises:
            ChannelClosedError: after `close`.
        """
        self._check_open()
        ring, state = self._ring, self._ring.state
        return SenderStats(
            state[State.NUM_SENT],
            state[State.BYTES_SENT],
            ring.blocked_s,
            state[State.SEND_NS] / 1e9,
            ring.num_unread,
            ring.size.num_descriptors,
        )

    def _check_open(self) -> None:
        if self._ring.is_closed:
            raise ChannelClosedError(f"this sender has closed {self._ring.path}")

    def close(self, timeout_s: float = 0.0, *, keeps_unread: bool = False) -> int:
        """Closes the ring as `RingWriter.close` does."""
        if self._fast is not None:
            self._fast.close()
        return self._ring.close(timeout_s, keeps_unread=keeps_unread)


def _no_fast_path(step: int, target: Section, draft: Section | None) -> int:
    """Replaces `FastSender.send` where no C++ module is installed: sends nothing."""
    return -1
