# SPDX-License-Identifier: Apache-2.0
"""Implements the reading ends of a ring: the one that acknowledges, and observers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vllm_ascend_ext.mtp_output.errors import (
    ChannelClosedError,
    ChannelError,
    ChannelInUseError,
    FrameError,
    NoFrameError,
    SequenceError,
    WriterGoneError,
)
from vllm_ascend_ext.mtp_output.frames.roster import Roster, write_roster
from vllm_ascend_ext.mtp_output.ring.backend import Backend
from vllm_ascend_ext.mtp_output.ring.counters import SLICE_S
from vllm_ascend_ext.mtp_output.ring.end_state import State, new_state
from vllm_ascend_ext.mtp_output.ring.file import RingFile, Word
from vllm_ascend_ext.mtp_output.ring.folder import open_ring, ring_path
from vllm_ascend_ext.mtp_output.ring.owner import Owner

_POLL_S = 0.005
_SETTLE_S = 1.0
_SETTLE_POLL_S = 0.0005

_Parsed = TypeVar("_Parsed")


class _Looker:
    """Implements what a reader and an observer have in common."""

    def __init__(self, file: RingFile, backend: Backend) -> None:
        self.path, self._file = file.path, file
        self._words = self._file.words
        self._published = backend.counter(self._file, Word.PUBLISHED, Word.READER_WAITS)
        self.state = new_state()
        self.sequence = self._words[Word.ACKNOWLEDGED]

    @property
    def memory(self) -> tuple[memoryview, memoryview, memoryview]:
        """Returns what this end works on, for the C++ module: `RingFile.words` and `frames`, and its own
        `State`."""
        return self._words, self._file.frames, self.state

    @property
    def sequence(self) -> int:
        """Returns the sequence of the frame that comes next."""
        return self.state[State.SEQUENCE]

    @sequence.setter
    def sequence(self, sequence: int) -> None:
        self.state[State.SEQUENCE] = sequence

    @property
    def num_published(self) -> int:
        """Returns how many frames were ever written to the ring."""
        return self._words[Word.PUBLISHED]

    @property
    def is_published(self) -> bool:
        """Returns whether frame `sequence` is there."""
        return self._words[Word.PUBLISHED] > self.sequence

    @property
    def writer(self) -> Owner:
        return self._file.writer

    @property
    def is_closed_by_writer(self) -> bool:
        return bool(self._words[Word.IS_CLOSED])

    @property
    def is_overtaken(self) -> bool:
        """Returns whether frame `sequence` was acknowledged, so that it may be gone."""
        return self._words[Word.ACKNOWLEDGED] > self.sequence

    def wait(self, timeout_s: float, begin: float | None = None) -> None:
        """Waits until frame `sequence` is there.

        Args:
            begin: the time from which `timeout_s` counts, by ``time.monotonic()``; by default now.

        Raises:
            NoFrameError: it did not come within `timeout_s` seconds.
            ChannelClosedError: it never will, the writer has closed the channel.
            WriterGoneError: it never will, the writer died.
        """
        if self._words[Word.PUBLISHED] > self.sequence:
            return
        deadline = (time.monotonic() if begin is None else begin) + timeout_s
        has_slept = begin is not None
        self._say_waiting(self.sequence + 1)
        try:
            while self._words[Word.PUBLISHED] <= self.sequence:
                left_s = deadline - time.monotonic()
                is_over = self._words[Word.IS_CLOSED]
                if has_slept or left_s <= 0:  # not before: to look costs more than most frames take to come
                    is_over = is_over or not self._file.writer.is_alive
                if is_over and self._words[Word.PUBLISHED] <= self.sequence:  # look again: it was alive before
                    raise self._over_error()
                if left_s <= 0:
                    raise NoFrameError(f"{self._file.writer} sent no frame {self.sequence} for {timeout_s:g} s")
                self._published.wait(self.sequence, min(left_s, SLICE_S))
                has_slept = True
        finally:
            self._say_waiting(0)

    def sleep(self, timeout_s: float) -> None:
        """Sleeps until frame `sequence` is there, `timeout_s` seconds at most; may return early."""
        self._say_waiting(self.sequence + 1)
        if not self.is_published:
            self._published.wait(self.sequence, timeout_s)
        self._say_waiting(0)

    def _say_waiting(self, wanted: int) -> None:
        """Announces that this end waits, so that the writer wakes it."""

    def _over_error(self) -> ChannelError:
        if self._words[Word.IS_CLOSED]:
            return ChannelClosedError(f"{self.path} was closed after {self.sequence} frames")
        if self._file.is_unlinked:
            return ChannelClosedError(
                f"{self.path} was replaced or removed after {self.sequence} frames: open it again"
            )
        return WriterGoneError(f"the writer of {self.path}, {self._file.writer}, sent {self.sequence} frames")

    def read(self, parse: Callable[[bytes], _Parsed]) -> _Parsed:
        """Returns what `parse` makes of frame `sequence`, which was published; the ring stays where it is.

        The counter may be seen before the frame (docs/internals/mtp_output.md, order); the frame settles shortly
        after, so what cannot be parsed is read again for a while.

        Raises:
            FrameError, SequenceError: by `parse`, still after that while; or the frame was overtaken.
        """
        deadline = None
        while True:
            try:
                return parse(self._copy())
            except (FrameError, SequenceError):
                deadline = deadline or time.monotonic() + _SETTLE_S
                if self.is_overtaken or time.monotonic() >= deadline:
                    raise
                time.sleep(_SETTLE_POLL_S)

    def _copy(self) -> bytes:
        words, size = self._words, self._file.size
        descriptor = self._file.descriptor(self.sequence)
        offset, num_bytes = words[descriptor] % size.capacity, words[descriptor + 1]
        return bytes(self._file.frames[offset : offset + min(num_bytes, size.max_frame_bytes)])

    def kept_roster(self, sequence: int) -> bytes | None:
        """Returns the roster that frame `sequence` carried, if the acknowledging reader kept it."""
        return self._file.kept_roster(sequence)

    def close(self) -> None:
        self._file.close()


class RingReader(_Looker):
    """Reads and acknowledges; begins at the first frame that was not acknowledged.

    Args:
        timeout_s: how long to wait for the ring to be created.

    Raises:
        NoFrameError: there was none.
        ChannelInUseError: it has a reader that lives.
        ChannelError: what lies there is somebody else's, or damaged.
    """

    def __init__(self, instance: int, replica: int, timeout_s: float, backend: Backend) -> None:
        super().__init__(_claim_ring(ring_path(instance, replica), timeout_s), backend)
        self._acknowledged = backend.counter(self._file, Word.ACKNOWLEDGED, Word.WRITER_WAITS)
        self._kept = -1

    def _say_waiting(self, wanted: int) -> None:
        self._published.announce(wanted)

    @property
    def rosters(self) -> memoryview:
        """Returns the places of the rosters kept, for the C++ module, which keeps them likewise."""
        return self._file.rosters

    def label(self, text: str) -> None:
        """Sets what the errors of a writer that waits for this reader say of it."""
        self._file.reader_label = text

    def newest_kept_roster(self, before: int) -> tuple[int, bytes] | None:
        """Returns the newest roster kept of a frame before `before`, and that frame."""
        return self._file.newest_kept_roster(before)

    @property
    def acknowledged(self) -> int:
        """Returns the first frame that was not acknowledged."""
        return self._words[Word.ACKNOWLEDGED]

    def acknowledge(self, sequence: int) -> None:
        """Gives up all frames before `sequence`."""
        self._acknowledged.publish(sequence)

    def keep_roster(self, sequence: int, roster: Roster) -> None:
        """Keeps the roster in force, which `RingFile.keep_roster` explains, if it is not kept yet.

        Raises:
            ChannelSizeError: the ring was not made for so long ids.
        """
        if sequence != self._kept:
            self._file.keep_roster(sequence, write_roster(roster))
            self._kept = sequence

    def _over_error(self) -> ChannelError:
        self._remove_if_over()
        return super()._over_error()

    def _remove_if_over(self) -> None:
        """Removes a ring that its writer left closed, with its last unread frame."""
        if not self._file.is_owner:  # a forked child: the end is its parent's
            return
        with self._file.locked():
            if self._words[Word.IS_CLOSED] and not self._file.num_unread and not self._file.is_unlinked:
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves the ring to the next reader, even that of a dead writer, who may come back and count on."""
        if self._file.is_owner:
            self._remove_if_over()
            self._file.name_nobody(Word.READER_PID)
        super().close()


class RingObserver(_Looker):
    """Looks on, without a right to write, and may be overtaken."""

    def __init__(self, instance: int, replica: int, timeout_s: float, backend: Backend) -> None:
        super().__init__(_await_ring(ring_path(instance, replica), timeout_s, writable=False), backend)

    def catch_up(self) -> int:
        """Goes on with the oldest frame that is surely there; returns how many were skipped."""
        oldest = self._words[Word.ACKNOWLEDGED]
        num_missed = max(oldest - self.sequence, 0)
        self.sequence += num_missed
        return num_missed


def _await_ring(path: Path, timeout_s: float, *, writable: bool) -> RingFile:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return open_ring(path, writable=writable)
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise NoFrameError(f"{path} was not made within {timeout_s:g} s: no sender has started") from None
            time.sleep(_POLL_S)


def _claim_ring(path: Path, timeout_s: float) -> RingFile:
    """Opens the ring and makes this process its reader."""
    deadline = time.monotonic() + timeout_s
    while True:
        file = _await_ring(path, deadline - time.monotonic(), writable=True)
        try:
            with file.locked():
                reader = file.reader  # before it is us
                if not file.claim_reader():
                    raise ChannelInUseError(f"{path} is read by {reader}; others can only observe")
                if not file.is_unlinked:
                    file.words[Word.ORPHANED_AT] = 0
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # replaced since it was opened
