# SPDX-License-Identifier: Apache-2.0
"""Maps the file of a ring."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import numpy as np
import xxhash

from vllm_ascend_ext.mtp_output.errors import ChannelError, ChannelInUseError, ChannelSizeError
from vllm_ascend_ext.mtp_output.ring.owner import Owner
from vllm_ascend_ext.mtp_output.ring.size import DESCRIPTOR_BYTES, HEADER_BYTES, ROSTER_SLOT_HEAD, RingSize

MAGIC = int.from_bytes(b"AEXTRNG2", "little")
_LABEL_BYTES = 160
_LOCK_DEADLINE_S = 5.0
_LOCK_POLL_S = 0.0005


class Word(IntEnum):
    """Names the words of the header page."""

    MAGIC = 0
    INSTANCE = 1
    REPLICA = 2
    CAPACITY = 3
    NUM_DESCRIPTORS = 4
    MAX_FRAME_BYTES = 5
    ROSTER_BYTES = 6
    WRITER_PID = 8
    WRITER_START = 9
    READER_PID = 10
    READER_START = 11
    IS_CLOSED = 12
    ORPHANED_AT = 13  # seconds since boot
    WRITER_NAMESPACE = 14
    READER_NAMESPACE = 15
    PUBLISHED = 32
    WRITER_WAITS = 48
    ACKNOWLEDGED = 64
    READER_WAITS = 80
    READER_LABEL = 96


_LABEL_AT = 8 * Word.READER_LABEL


class RingFile:
    """Maps a ring; owns `file`.

    Attributes:
        words: the header page and the descriptors as unsigned words; see `Word`.
        frames: the bytes of the frames.
        path: the file's path, also after it was unlinked.
        address: memory address of the first word.
    """

    def __init__(self, file: int, path: Path, *, writable: bool) -> None:
        self.path, self._file = path, file
        self.is_closed = False
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(file, os.fstat(file).st_size, access=access)
        self._all = memoryview(self._map)
        self.address = np.frombuffer(self._map, np.uint8).ctypes.data
        self.words = self._all[: mmap.PAGESIZE].cast("Q")
        try:
            self.size = self._checked_size()
        except ChannelError:
            self._unmap()
            raise
        self.words = self._all[: self.size.rosters_at].cast("Q")
        self.frames = self._all[self.size.frames_at :]

    def _checked_size(self) -> RingSize:
        words = self.words
        size = RingSize(
            words[Word.MAX_FRAME_BYTES],
            words[Word.ROSTER_BYTES],
            words[Word.CAPACITY],
            words[Word.NUM_DESCRIPTORS],
        )
        if words[Word.MAGIC] != MAGIC:
            raise ChannelError(f"{self.path} is no ring of this version: its magic is {words[Word.MAGIC]:#x}")
        try:
            size.check()
        except ChannelSizeError as error:
            raise ChannelError(f"{self.path} is damaged: {error}") from error
        if size.file_bytes != len(self._map):
            raise ChannelError(f"{self.path} has {len(self._map)} bytes, its header says {size.file_bytes}")
        return size

    @property
    def writer(self) -> Owner:
        words = self.words
        return Owner(words[Word.WRITER_PID], words[Word.WRITER_START], words[Word.WRITER_NAMESPACE])

    @writer.setter
    def writer(self, owner: Owner) -> None:
        self.words[Word.WRITER_START], self.words[Word.WRITER_NAMESPACE] = owner.start_ticks, owner.namespace
        self.words[Word.WRITER_PID] = owner.pid

    @property
    def reader(self) -> Owner:
        words = self.words
        return Owner(words[Word.READER_PID], words[Word.READER_START], words[Word.READER_NAMESPACE])

    @reader.setter
    def reader(self, owner: Owner) -> None:
        self.words[Word.READER_START], self.words[Word.READER_NAMESPACE] = owner.start_ticks, owner.namespace
        self.words[Word.READER_PID] = owner.pid

    @property
    def reader_label(self) -> str:
        """Returns what the reader says of itself."""
        return bytes(self._all[_LABEL_AT : _LABEL_AT + _LABEL_BYTES]).rstrip(b"\0").decode(errors="replace")

    @reader_label.setter
    def reader_label(self, label: str) -> None:
        text = label.encode()[:_LABEL_BYTES]
        self._all[_LABEL_AT : _LABEL_AT + _LABEL_BYTES] = text.ljust(_LABEL_BYTES, b"\0")

    def word_address(self, word: Word) -> int:
        return self.address + 8 * word

    def descriptor(self, sequence: int) -> int:
        """Returns the index in `words` of the position of frame `sequence`; the next word is the frame's
        length."""
        return (HEADER_BYTES + DESCRIPTOR_BYTES * (sequence % self.size.num_descriptors)) // 8

    def keep_roster(self, sequence: int, blob: bytes) -> None:
        """Keeps a roster; a reader does this before it acknowledges a frame under that roster.

        The one it keeps already for the first frame that is not acknowledged stays: it is needed again when the
        reader dies before the acknowledgement is written.
        """
        if self.kept_roster(sequence) == blob:
            return
        acknowledged = self.words[Word.ACKNOWLEDGED]
        ages = [
            of if length and of < acknowledged else -1 for of, length, _ in map(self._roster_slot_head, range(2))
        ]
        slot = self._roster_slot(ages.index(min(ages)))
        slot[8:16] = bytes(8)  # of no length until it is whole
        slot[ROSTER_SLOT_HEAD.size : ROSTER_SLOT_HEAD.size + len(blob)] = blob
        ROSTER_SLOT_HEAD.pack_into(slot, 0, sequence, len(blob), _roster_checksum(sequence, blob))

    def kept_roster(self, sequence: int) -> bytes | None:
        """Returns the roster that frame `sequence` carried, if a reader kept it."""
        for index in range(2):
            of, length, checksum = self._roster_slot_head(index)
            if of == sequence and 0 < length <= self.size.roster_bytes:
                blob = bytes(self._roster_slot(index)[ROSTER_SLOT_HEAD.size : ROSTER_SLOT_HEAD.size + length])
                if checksum == _roster_checksum(sequence, blob):
                    return blob
        return None

    def newest_kept_roster(self, before: int) -> tuple[int, bytes] | None:
        """Returns the newest roster that a reader kept of a frame before `before`, and that frame."""
        for sequence in sorted((self._roster_slot_head(index)[0] for index in range(2)), reverse=True):
            blob = self.kept_roster(sequence) if sequence < before else None
            if blob is not None:
                return sequence, blob
        return None

    def _roster_slot_head(self, index: int) -> tuple[int, int, int]:
        """Returns sequence, length and checksum of a roster slot."""
        return ROSTER_SLOT_HEAD.unpack_from(self._roster_slot(index))

    def _roster_slot(self, index: int) -> memoryview:
        begin = self.size.rosters_at + index * self.size.roster_slot_bytes
        return self._all[begin : begin + self.size.roster_slot_bytes]

    @property
    def num_unread(self) -> int:
        """Returns how many frames were published and not acknowledged."""
        return self.words[Word.PUBLISHED] - self.words[Word.ACKNOWLEDGED]

    @property
    def is_unlinked(self) -> bool:
        """Returns whether the file has lost its name, so that nobody new will come."""
        return os.fstat(self._file).st_nlink == 0

    @contextmanager
    def locked(self, timeout_s: float = _LOCK_DEADLINE_S) -> Iterator[None]:
        """Locks the file while one process decides who owns an end. No process holds the lock for longer.

        Raises:
            ChannelInUseError: somebody does.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ChannelInUseError(f"{self.path} is locked for {timeout_s:g} s") from None
                time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            if not self.is_closed:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Unmaps; the file stays. A second call does nothing."""
        if not self.is_closed:
            self.is_closed = True
            self.frames.release()
            self._unmap()
            os.close(self._file)

    def _unmap(self) -> None:
        self.words.release()
        self._all.release()
        self._map.close()


def _roster_checksum(sequence: int, blob: bytes) -> int:
    return xxhash.xxh64_intdigest(blob, seed=sequence)
