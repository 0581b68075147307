# SPDX-License-Identifier: Apache-2.0
"""Writes frames to a ring in shared memory, which has one writer, one acknowledging reader, and observers.

Two counters are all that the ends agree on, each written by one of them in one aligned store: how many frames were
published, and how many acknowledged. A frame and its descriptor are written before the frame is published, and
overwritten after it was acknowledged; so what a killed process leaves is a ring in which its last store either
happened or not.
"""

from __future__ import annotations

import logging
import time

from vllm_ascend_ext.mtp_output.errors import (
    ChannelError,
    ChannelFullError,
    ChannelInUseError,
    ChannelSizeError,
    ReaderGoneError,
)
from vllm_ascend_ext.mtp_output.ring.backend import Backend
from vllm_ascend_ext.mtp_output.ring.counters import SLICE_S
from vllm_ascend_ext.mtp_output.ring.end_state import State, new_state
from vllm_ascend_ext.mtp_output.ring.file import RingFile, Word
from vllm_ascend_ext.mtp_output.ring.folder import clear_dead_rings, create, open_ring, ring_path
from vllm_ascend_ext.mtp_output.ring.owner import Owner
from vllm_ascend_ext.mtp_output.ring.size import LAP_BYTES, RingSize
from vllm_ascend_ext.printable import printable

_logger = logging.getLogger(__name__)


class RingWriter:
    """Writes to a ring.

    Creates the ring. One that a dead writer of the same instance left is continued where it has the same size, so
    that nothing which was not read is lost, and replaced otherwise.

    Raises:
        ChannelInUseError: its writer lives.
        ChannelSizeError: no ring of this size is possible.
        ChannelError: what lies there is somebody else's.
    """

    def __init__(self, instance: int, replica: int, size: RingSize, backend: Backend) -> None:
        self.path = ring_path(instance, replica)
        clear_dead_rings(instance)
        self._file = self._create_or_continue(instance, replica, size)
        self.size = self._file.size
        self.frames = self._file.frames
        self._words = self._file.words
        self._published = backend.counter(self._file, Word.PUBLISHED, Word.READER_WAITS)
        self._acknowledged = backend.counter(self._file, Word.ACKNOWLEDGED, Word.WRITER_WAITS)
        self.state = new_state()
        self.state[State.SEQUENCE] = self._words[Word.PUBLISHED]
        self.state[State.HEAD] = self._end_of_last()
        self.blocked_s = 0.0
        self._words[Word.BLOCKED_NS] = self._words[Word.BLOCKED_SINCE] = 0

    def _create_or_continue(self, instance: int, replica: int, size: RingSize) -> RingFile:
        while True:
            try:
                file = create(self.path, instance, replica, size)
            except FileExistsError:
                file = self._take_over(size)
            if file is not None:
                return file

    def _take_over(self, size: RingSize) -> RingFile | None:
        """Returns the ring to continue, or None when what lay there is out of the way."""
        try:
            file = open_ring(self.path, writable=True)
        except FileNotFoundError:
            return None
        try:
            with file.locked():
                writer = file.writer  # before it is us
                if not file.is_unlinked and not file.claim_writer():
                    raise ChannelInUseError(
                        f"{self.path} is written by {writer}; one instance writes one ring: set "
                        "mtp_output.instance to another number for each engine of this machine"
                    )
                if not file.is_unlinked and file.size == size:
                    file.words[Word.ORPHANED_AT] = file.words[Word.IS_CLOSED] = 0
                    return file
                if not file.is_unlinked:  # otherwise somebody was quicker
                    self._replace(file, writer)
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _replace(self, file: RingFile, writer: Owner) -> None:
        if num_unread := file.num_unread:
            _logger.warning(
                "%s of %s is replaced, being of another size: %d unread frames, from %d on, are lost",
                *(self.path, writer, num_unread, file.words[Word.ACKNOWLEDGED]),
            )
        self.path.unlink(missing_ok=True)

    @property
    def memory(self) -> tuple[memoryview, memoryview, memoryview]:
        """Returns what this end works on, for the C++ module: `RingFile.words` and `frames`, and its own
        `State`."""
        return self._words, self.frames, self.state

    @property
    def sequence(self) -> int:
        """Returns the sequence of the next frame."""
        return self.state[State.SEQUENCE]

    def _end_of_last(self) -> int:
        if not self.sequence:
            return 0
        at = self._file.descriptor(self.sequence - 1)
        return _end(self._words[at], self._words[at + 1])

    @property
    def num_unread(self) -> int:
        """Returns how many frames the reader has not acknowledged."""
        return self._file.num_unread

    def reserve(self, num_bytes: int, timeout_s: float) -> int:
        """Waits until a frame of `num_bytes` fits; returns where in `memory` it begins.

        Raises:
            ChannelSizeError: it never will.
            ChannelFullError: the reader lives and did not make room within `timeout_s` seconds.
            ReaderGoneError: the ring was full that long, and its reader is dead or never came.
        """
        if num_bytes > self.size.max_frame_bytes:
            raise ChannelSizeError(
                f"a frame of up to {num_bytes} bytes; {self.path} was made for {self.size.max_frame_bytes}"
            )
        at = self._free(num_bytes)
        return at if at is not None else self._wait_for_room(num_bytes, timeout_s)

    def _free(self, num_bytes: int) -> int | None:
        words, size, head = self._words, self.size, self.state[State.HEAD]
        acknowledged = words[Word.ACKNOWLEDGED]
        offset = head % size.capacity
        is_empty = acknowledged == self.sequence
        if offset + num_bytes > size.capacity or (is_empty and offset > LAP_BYTES):  # a frame lies in one piece
            head, offset = head + size.capacity - offset, 0
        if not is_empty:
            oldest = words[self._file.descriptor(acknowledged)]
            if self.sequence - acknowledged >= size.num_descriptors or head + num_bytes - oldest > size.capacity:
                return None
        self.state[State.HEAD] = head
        return offset

    def _wait_for_room(self, num_bytes: int, timeout_s: float) -> int:
        begin = time.monotonic()
        self._words[Word.BLOCKED_SINCE] = int(begin * 1e9)
        try:
            while True:
                acknowledged = self._words[Word.ACKNOWLEDGED]
                # to be woken for each frame would cost both ends a switch of processes a frame
                self._acknowledged.announce(acknowledged + max(self.num_unread // 2, 1))
                at = self._free(num_bytes)
                if at is not None:
                    return at
                left_s = begin + timeout_s - time.monotonic()
                if left_s <= 0:
                    raise self._full_error(timeout_s)
                self._acknowledged.wait(acknowledged, min(left_s, SLICE_S))
        finally:
            self._acknowledged.announce(0)
            self.blocked_s += time.monotonic() - begin
            self._words[Word.BLOCKED_NS] = int(self.blocked_s * 1e9)
            self._words[Word.BLOCKED_SINCE] = 0

    def _full_error(self, timeout_s: float) -> ChannelError:
        reader = self._file.reader
        label = printable(self._file.reader_label)
        what = (
            f"{self.path} is full for {timeout_s:g} s: its reader, {reader}{label}, is "
            f"{self.num_unread} frames behind, the first of them frame {self._words[Word.ACKNOWLEDGED]}"
        )
        return ChannelFullError(what) if reader.is_alive else ReaderGoneError(what)

    def publish(self, num_bytes: int) -> int:
        """Makes the frame of `num_bytes` that was written where `reserve` said visible; returns its sequence."""
        sequence, words, state = self.sequence, self._words, self.state
        descriptor = self._file.descriptor(sequence)
        words[descriptor] = state[State.HEAD]
        words[descriptor + 1] = num_bytes
        state[State.HEAD] = _end(state[State.HEAD], num_bytes)
        state[State.SEQUENCE] = sequence + 1
        self._published.publish(sequence + 1)
        return sequence

    @property
    def is_closed(self) -> bool:
        return self._file.is_closed

    def close(self, timeout_s: float = 0.0, *, keeps_unread: bool = False) -> int:
        """Waits until all is acknowledged, at most `timeout_s` seconds; then removes the ring.

        Args:
            keeps_unread: leave a ring with unread frames; the reader that reads to its end removes it, and a
                sender of this instance continues it.

        Returns:
            How many frames nobody acknowledged. A reader that is attached can still read them.
        """
        if self._file.is_closed:
            return 0
        if not self._file.is_owner:  # a forked child: the ring is its parent's
            self._file.close()
            return 0
        deadline = time.monotonic() + timeout_s
        self._acknowledged.announce(self.sequence)
        while self.num_unread and (left_s := deadline - time.monotonic()) > 0:
            acknowledged = self._words[Word.ACKNOWLEDGED]
            self._acknowledged.wait(acknowledged, min(left_s, SLICE_S))
        with self._file.locked():  # a reader at the end decides likewise
            num_unread = self.num_unread
            self._words[Word.IS_CLOSED] = 1
            self._file.name_nobody(Word.WRITER_PID)
            if not (self._file.is_unlinked or (num_unread and keeps_unread)):
                self.path.unlink(missing_ok=True)
        self._published.wake()
        self._file.close()
        return num_unread


def _end(position: int, num_bytes: int) -> int:
    return position + (num_bytes + 7) // 8 * 8
