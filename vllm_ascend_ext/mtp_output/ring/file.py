# SPDX-License-Identifier: Apache-2.0
"""Maps the file of a ring."""

from __future__ import annotations

import mmap
import os
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from vllm_ascend_ext.mtp_output.errors import ChannelError, ChannelSizeError
from vllm_ascend_ext.mtp_output.ring.lock import DECISION_DEADLINE_S, RingLock, is_held
from vllm_ascend_ext.mtp_output.ring.owner import Owner, pid_namespace
from vllm_ascend_ext.mtp_output.ring.size import DESCRIPTOR_BYTES, HEADER_BYTES, ROSTER_SLOT_HEAD, RingSize

MAGIC = int.from_bytes(b"AEXTRNG4", "little")
_LABEL_BYTES = 160


class Word(IntEnum):
    """Names the words of the header page."""

    MAGIC = 0
    INSTANCE = 1
    REPLICA = 2
    CAPACITY = 3
    NUM_DESCRIPTORS = 4
    MAX_FRAME_BYTES = 5
    ROSTER_BYTES = 6
    WRITER_PID = 8  # its first byte is locked by the writer for as long as it lives
    READER_PID = 10  # likewise
    IS_CLOSED = 12
    ORPHANED_AT = 13  # seconds since boot
    WRITER_NAMESPACE = 14
    READER_NAMESPACE = 15
    BLOCKED_NS = 16  # that the writer has waited for room, but for a wait that is going on
    BLOCKED_SINCE = 17  # time at which that one began, by the monotonic clock; 0 while there is none
    PUBLISHED = 32
    WRITER_WAITS = 48
    ACKNOWLEDGED = 64
    READER_WAITS = 80
    READER_LABEL = 96


_LABEL_AT = 8 * Word.READER_LABEL


class RingFile:
    """Maps a ring; owns `file` and `lock`, which is None for one that only looks on.

    Attributes:
        words: the header page and the descriptors as unsigned words; see `Word`.
        rosters: the places of the rosters kept.
        frames: the bytes of the frames.
        path: the file's path, also after it was unlinked.
        address: memory address of the first word.
    """

    def __init__(self, file: int, path: Path, lock: RingLock | None) -> None:
        self.path, self._file, self._lock = path, file, lock
        self.is_closed = False
        access = mmap.ACCESS_READ if lock is None else mmap.ACCESS_WRITE
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
        self.rosters = self._all[self.size.rosters_at : self.size.frames_at]
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
        """Returns the writer, or who was it last."""
        return self._owner(Word.WRITER_PID, Word.WRITER_NAMESPACE)

    @property
    def reader(self) -> Owner:
        """Returns the reader that acknowledges, or who was it last."""
        return self._owner(Word.READER_PID, Word.READER_NAMESPACE)

    def _owner(self, pid: Word, namespace: Word) -> Owner:
        return Owner(self.words[pid], self.words[namespace], is_held(self._file, 8 * pid))

    def claim_writer(self) -> bool:
        """Makes this process the writer; returns false where a process that lives is."""
        return self._claim(Word.WRITER_PID, Word.WRITER_NAMESPACE)

    def claim_reader(self) -> bool:
        """Makes this process the reader that acknowledges, likewise."""
        return self._claim(Word.READER_PID, Word.READER_NAMESPACE)

    def _claim(self, pid: Word, namespace: Word) -> bool:
        if self._lock is None or not self._lock.claim(8 * pid):
            return False
        self.words[namespace], self.words[pid] = pid_namespace(), os.getpid()
        return True

    @property
    def is_owner(self) -> bool:
        """Returns whether this process holds an end by this object, which a forked child of its does not."""
        return self._lock is not None and self._lock.is_owner

    def name_nobody(self, pid: Literal[Word.WRITER_PID, Word.READER_PID]) -> None:
        """Says that who held an end has given it up in order."""
        self.words[pid] = 0

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

        Raises:
            ChannelSizeError: it is longer than the place for it.
        """
        if len(blob) > self.size.roster_bytes:
            raise ChannelSizeError(
                f"request ids of {len(blob)} bytes; {self.path} was made for {self.size.roster_bytes}"
            )
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
        begin = index * self.size.roster_slot_bytes
        return self.rosters[begin : begin + self.size.roster_slot_bytes]

    @property
    def num_unread(self) -> int:
        """Returns how many frames were published and not acknowledged."""
        return self.words[Word.PUBLISHED] - self.words[Word.ACKNOWLEDGED]

    @property
    def is_unlinked(self) -> bool:
        """Returns whether the file has lost its name, so that nobody new will come."""
        return os.fstat(self._file).st_nlink == 0

    def locked(self, timeout_s: float = DECISION_DEADLINE_S) -> AbstractContextManager[None]:
        """Locks the file while one process decides who owns an end, as `RingLock.decision` does."""
        assert self._lock is not None, "an observer decides nothing"
        return self._lock.decision(timeout_s)

    def close(self) -> None:
        """Unmaps; the file stays. A second call does nothing."""
        if not self.is_closed:
            self.is_closed = True
            self.frames.release()
            self.rosters.release()
            self._unmap()
            os.close(self._file)
            if self._lock is not None:
                self._lock.close()

    def _unmap(self) -> None:
        self.words.release()
        self._all.release()
        self._map.close()


def _roster_checksum(sequence: int, blob: bytes) -> int:
    return xxhash.xxh3_64_intdigest(blob) ^ sequence
