# SPDX-License-Identifier: Apache-2.0
"""Reads frames: the receiver acknowledges them, observers only look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, FrameError, SequenceError, UnknownRosterError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, FrameReader
from vllm_ascend_ext.mtp_output.frames.roster import read_roster
from vllm_ascend_ext.mtp_output.frames.section import Section, Source
from vllm_ascend_ext.mtp_output.ring.backend import Backend, installed_backend
from vllm_ascend_ext.mtp_output.ring.counters import SLICE_S
from vllm_ascend_ext.mtp_output.ring.end_state import State
from vllm_ascend_ext.mtp_output.ring.reader import RingObserver, RingReader

if TYPE_CHECKING:
    from vllm_ascend_ext.mtp_output.remote.reader import ZmqReader


class OutputReceiver:
    """Receives the frames of a replica and acknowledges them, as the only reader that does; for one thread.

    What was received and not acknowledged is received again after a restart; `Frame.sequence` tells.

    Args:
        instance, replica: numbers of the engine and of its replica.
        timeout_s: how long to wait for the sender to create its ring.
        backend: the decoder; by default the installed one.

    Raises:
        NoFrameError, ChannelInUseError, ChannelError: what `RingReader` says.
    """

    _fast: Any  # the C++ module's `FastReceiver`
    _receive_fast: Callable[[float], Frame | None]

    def __init__(
        self, instance: int, replica: int, *, timeout_s: float = 60.0, backend: Backend | None = None
    ) -> None:
        backend = backend or installed_backend()
        ring = RingReader(instance, replica, timeout_s, backend)
        self._read_from(ring, _Intake(instance, replica, backend))
        if backend.module:
            make = Section, Frame, tuple(Source), np.empty, np.dtype(np.int32)
            self._fast = backend.module.FastReceiver(*ring.memory, ring.rosters, *make, SLICE_S)
            self._receive_fast = self._fast.receive

    @classmethod
    def connect(
        cls,
        endpoint: str,
        instance: int,
        replica: int,
        *,
        timeout_s: float = 60.0,
        backend: Backend | None = None,
    ) -> OutputReceiver:
        """Connects to a `RingForwarder` on another host and receives what it forwards.

        Args:
            endpoint: the forwarder's address as ZMQ writes it, ``tcp://10.0.0.1:5600``.
            timeout_s: how long to wait for an answer.

        Raises:
            NoFrameError, ChannelInUseError, ChannelError: what `ZmqReader` says.
        """
        from vllm_ascend_ext.mtp_output.remote.reader import ZmqReader  # pyzmq is for other hosts only

        receiver = cls.__new__(cls)
        intake = _Intake(instance, replica, backend or installed_backend())
        receiver._read_from(ZmqReader(endpoint, instance, replica, timeout_s), intake)
        return receiver

    def _read_from(self, ring: RingReader | ZmqReader, intake: _Intake) -> None:
        self._ring, self._intake, self._is_closed = ring, intake, False
        self._fast, self._receive_fast = None, _no_fast_path

    def receive(self, timeout_s: float) -> Frame:
        """Acknowledges what was received before and returns the next frame.

        Raises:
            NoFrameError: none came within `timeout_s` seconds, though the writer lives.
            WriterGoneError: the writer died, and all it sent was received.
            ChannelClosedError: the writer closed the channel, and all it sent was received; or after `close`.
            FrameError: the next frame is damaged. It stays unacknowledged.
            SequenceError: it is not the next of this replica.
        """
        frame = self._receive_fast(timeout_s)
        return frame if frame is not None else self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> Frame:
        """Receives a frame in Python, whatever the frame before was."""
        self.acknowledge()
        frame = self._await(timeout_s)
        if frame is not None:
            return frame
        ring, reader = self._ring, self._intake.reader
        if self._fast is not None and (known := self._fast.roster()) is not None:
            reader.adopt(*known)
        frame = self._intake.next_frame(ring)
        ring.keep_roster(reader.roster_sequence, reader.roster)
        if self._fast is not None:
            self._fast.adopt(reader.roster_sequence, reader.roster)
        ring.sequence += 1
        return frame

    def _await(self, timeout_s: float) -> Frame | None:
        """Waits for the next frame; where C++ has waited for a part of the time, tries the fast path once more."""
        ring = self._ring
        if isinstance(ring, RingReader) and (waited_ns := ring.state[State.WAITED_NS]):
            ring.wait(timeout_s, time.monotonic() - waited_ns / 1e9)
            return self._receive_fast(0.0)
        ring.wait(timeout_s)
        return None

    def acknowledge(self) -> None:
        """Acknowledges all that was received: it is this process's now and will not come again.

        Raises:
            ChannelClosedError: after `close`.
        """
        if self._is_closed:
            raise ChannelClosedError("this receiver has been closed")
        ring = self._ring
        if ring.acknowledged != ring.sequence:
            ring.acknowledge(ring.sequence)

    def close(self) -> None:
        """Leaves what is not acknowledged to the next reader.

        Raises:
            RuntimeError: another thread waits in `receive` (in C++). Nothing has changed.
        """
        if self._fast is not None:
            self._fast.close()
        self._is_closed = True
        self._ring.close()


def _no_fast_path(timeout_s: float) -> Frame | None:
    """Replaces `FastReceiver.receive` where no C++ module is installed: reads nothing."""
    return None


class OutputObserver:
    """Sees the frames of a replica without a right to change anything; for looking on, not for serving.

    Args and Raises: as for `OutputReceiver`; any number may look on.
    """

    def __init__(
        self, instance: int, replica: int, *, timeout_s: float = 60.0, backend: Backend | None = None
    ) -> None:
        backend = backend or installed_backend()
        self._ring = RingObserver(instance, replica, timeout_s, backend)
        self._intake = _Intake(instance, replica, backend)
        self.num_missed = 0

    def receive(self, timeout_s: float) -> Frame:
        """Returns the next frame that is still there; `num_missed` counts those that were not.

        Raises:
            NoFrameError, WriterGoneError, ChannelClosedError, FrameError, SequenceError: as
                `OutputReceiver.receive`.
        """
        ring = self._ring
        while True:
            ring.wait(timeout_s)
            try:
                frame = self._intake.next_frame(ring)
            except (FrameError, SequenceError) as error:
                num_missed = ring.catch_up()
                if not num_missed and isinstance(error, UnknownRosterError):
                    num_missed = 1
                    ring.sequence += 1
                if not num_missed:
                    raise
                self.num_missed += num_missed
                continue
            ring.sequence += 1
            return frame

    def close(self) -> None:
        self._ring.close()


class _Intake:
    """Makes frames of bytes, and sure that they are the ones expected."""

    def __init__(self, instance: int, replica: int, backend: Backend) -> None:
        self._identity = instance, replica
        self.reader = FrameReader(backend.rows)

    def next_frame(self, ring: RingReader | RingObserver | ZmqReader) -> Frame:
        """Returns the frame `ring.sequence`, which was published."""
        return ring.read(lambda data: self._parse(ring, data))

    def _parse(self, ring: RingReader | RingObserver | ZmqReader, data: bytes) -> Frame:
        try:
            frame = self.reader.read(data)
        except UnknownRosterError as error:
            blob = ring.kept_roster(error.sequence)
            if blob is None:
                raise
            self.reader.adopt(error.sequence, read_roster(blob))
            frame = self.reader.read(data)
        if frame.sequence != ring.sequence or (frame.instance, frame.replica) != self._identity:
            raise SequenceError(
                f"frame {frame.sequence} of instance {frame.instance}, replica {frame.replica}, where frame "
                f"{ring.sequence} of {self._identity[0]}, {self._identity[1]} must be: a second sender?"
            )
        return frame
