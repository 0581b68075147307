# SPDX-License-Identifier: Apache-2.0
"""The file in /dev/shm that a ring is: layout, size, creation, mapping. docs/mtp_output.md tells why it is so.

    0           header page; words of 8 bytes as in `Word`, those written while running 128 bytes apart
    4096        descriptors: position and length of the frames, frame n in descriptor n modulo their number
    ..          two rosters that the reader kept: sequence, length, checksum, zero, text
    ..          frames, on a page; positions count up, frame at `position` lies at position modulo capacity
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import xxhash

from vllm_ascend_ext.mtp import rows
from vllm_ascend_ext.mtp.errors import ChannelError, ChannelInUseError, ChannelSizeError
from vllm_ascend_ext.mtp.frame import HEADER, SECTION, TRAILER
from vllm_ascend_ext.mtp.owner import Owner

MAGIC = int.from_bytes(b"AEXTRNG1", "little")
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "ascend_ext-"
_HEADER_BYTES = 4096
_DESCRIPTOR_BYTES = 16
_SLOT_HEAD = struct.Struct("<QQQ8x")
_LOCK_DEADLINE_S = 5.0
_LOCK_POLL_S = 0.0005
MAX_REQUEST_ID_BYTES = 256  # on the average of a batch


class Word(IntEnum):
    """Words of the header page."""

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
    ORPHANED_AT = 13
    PUBLISHED = 32
    WRITER_WAITS = 48
    ACKNOWLEDGED = 64
    READER_WAITS = 80


@dataclass(frozen=True, slots=True)
class RingSize:
    """How large a ring is; bytes.

    Attributes:
        max_frame_bytes: of one frame.
        roster_bytes: of one roster.
        capacity: of all frames.
        num_descriptors: the most frames that wait for their reader.
    """

    max_frame_bytes: int
    roster_bytes: int
    capacity: int
    num_descriptors: int

    @classmethod
    def for_engine(
        cls, max_num_seqs: int, num_speculative_tokens: int, top_k: int = 0, *, num_frames: int = 64
    ) -> RingSize:
        """Room for `num_frames` full steps of target and draft.

        Raises:
            ChannelSizeError: a number that is not positive, or more slots than a frame can count.
        """
        num_slots = num_speculative_tokens + 1
        if min(max_num_seqs, num_slots, num_frames) < 1 or top_k < 0 or num_slots > rows.MAX_SLOTS:
            raise ChannelSizeError(
                f"no ring for {max_num_seqs} requests, {num_speculative_tokens} speculative tokens, top-k {top_k} "
                f"and {num_frames} frames: a step has at least a request and 1 to {rows.MAX_SLOTS} tokens of each"
            )
        fixed = HEADER.size + TRAILER.size + 3 * SECTION.size
        body = fixed + 2 * rows.bound(max_num_seqs, num_slots, top_k)
        roster = 64 + 2 * max_num_seqs * (2 + MAX_REQUEST_ID_BYTES)
        capacity = max(num_frames * body, 2 * (body + roster))
        return cls(body + roster, roster, _pages(capacity), num_frames)

    def check(self) -> None:
        """Raises:
        ChannelSizeError: no ring can have these sizes.
        """
        if self.num_descriptors < 1 or self.max_frame_bytes < 1 or 2 * self.max_frame_bytes > self.capacity:
            raise ChannelSizeError(
                f"a ring of {self.capacity} bytes for {self.num_descriptors} frames cannot hold frames of "
                f"{self.max_frame_bytes} bytes: the largest is at most half the ring"
            )

    @property
    def rosters_at(self) -> int:
        return _HEADER_BYTES + _DESCRIPTOR_BYTES * self.num_descriptors

    @property
    def slot_bytes(self) -> int:
        return _SLOT_HEAD.size + (self.roster_bytes + 7) // 8 * 8

    @property
    def frames_at(self) -> int:
        return _pages(self.rosters_at + 2 * self.slot_bytes)

    @property
    def file_bytes(self) -> int:
        return self.frames_at + _pages(self.capacity)


def _pages(num_bytes: int) -> int:
    return (num_bytes + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


def ring_path(instance: int, replica: int) -> Path:
    """Where the ring of a replica lies."""
    return SHARED_MEMORY / f"{PREFIX}{instance}-{replica}"


class RingFile:
    """A mapped ring; owns `file`.

    Attributes:
        words: the header page and the descriptors as unsigned words; see `Word`.
        frames: the bytes of the frames.
        path: where it is, or was.
        address, frames_address: of the first word, and of the first frame byte.
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
        self.frames_address = self.address + self.size.frames_at

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
        return Owner(self.words[Word.WRITER_PID], self.words[Word.WRITER_START])

    @property
    def reader(self) -> Owner:
        return Owner(self.words[Word.READER_PID], self.words[Word.READER_START])

    def word_address(self, word: Word) -> int:
        return self.address + 8 * word

    def descriptor(self, sequence: int) -> int:
        """The index in `words` of the position of frame `sequence`; its length follows."""
        return (_HEADER_BYTES + _DESCRIPTOR_BYTES * (sequence % self.size.num_descriptors)) // 8

    def keep_roster(self, sequence: int, blob: bytes) -> None:
        """A reader does this before it acknowledges a frame under that roster.

        The one it keeps already for the first frame that is not acknowledged stays: it is needed again when the
        reader dies before the acknowledgement is written.
        """
        if self.kept_roster(sequence) == blob:
            return
        acknowledged = self.words[Word.ACKNOWLEDGED]
        ages = [of if length and of < acknowledged else -1 for of, length, _ in map(self._slot_head, range(2))]
        slot = self._slot(ages.index(min(ages)))
        slot[8:16] = bytes(8)  # of no length until it is whole
        slot[_SLOT_HEAD.size : _SLOT_HEAD.size + len(blob)] = blob
        _SLOT_HEAD.pack_into(slot, 0, sequence, len(blob), _roster_checksum(sequence, blob))

    def kept_roster(self, sequence: int) -> bytes | None:
        """The roster that frame `sequence` carried, if a reader kept it."""
        for index in range(2):
            of, length, checksum = self._slot_head(index)
            if of == sequence and 0 < length <= self.size.roster_bytes:
                blob = bytes(self._slot(index)[_SLOT_HEAD.size : _SLOT_HEAD.size + length])
                if checksum == _roster_checksum(sequence, blob):
                    return blob
        return None

    def _slot_head(self, index: int) -> tuple[int, int, int]:
        """Sequence, length and checksum."""
        return _SLOT_HEAD.unpack_from(self._slot(index))

    def _slot(self, index: int) -> memoryview:
        begin = self.size.rosters_at + index * self.size.slot_bytes
        return self._all[begin : begin + self.size.slot_bytes]

    @property
    def num_unread(self) -> int:
        """Frames that were published and not acknowledged."""
        return self.words[Word.PUBLISHED] - self.words[Word.ACKNOWLEDGED]

    @property
    def is_unlinked(self) -> bool:
        """Whether the file has lost its name, so that nobody new will come."""
        return os.fstat(self._file).st_nlink == 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time decides who owns an end. Nobody holds this for longer than that takes.

        Raises:
            ChannelInUseError: somebody does.
        """
        deadline = time.monotonic() + _LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ChannelInUseError(f"{self.path} is locked for {_LOCK_DEADLINE_S:g} s") from None
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


def create(path: Path, instance: int, replica: int, size: RingSize, writer: Owner) -> None:
    """Makes the file, whole from the moment it has its name.

    Raises:
        FileExistsError: there is one.
        ChannelSizeError: /dev/shm is too small.
    """
    size.check()
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if size.file_bytes > free:
        raise ChannelSizeError(f"{path} needs {size.file_bytes} bytes, {path.parent} has {free} left")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    file = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(file, 0, size.file_bytes)  # so that no later write finds the memory gone
        except OSError as error:
            raise ChannelSizeError(f"{path} needs {size.file_bytes} bytes: {error.strerror}") from error
        words = np.zeros(_HEADER_BYTES // 8, np.uint64)
        for word, value in {
            Word.MAGIC: MAGIC,
            Word.INSTANCE: instance,
            Word.REPLICA: replica,
            Word.CAPACITY: size.capacity,
            Word.NUM_DESCRIPTORS: size.num_descriptors,
            Word.MAX_FRAME_BYTES: size.max_frame_bytes,
            Word.ROSTER_BYTES: size.roster_bytes,
            Word.WRITER_PID: writer.pid,
            Word.WRITER_START: writer.start_ticks,
        }.items():
            words[word] = value
        os.pwrite(file, words.tobytes(), 0)
        # with a folder's descriptor CPython calls linkat, which follows the link in /proc to the nameless file
        os.link(f"/proc/self/fd/{file}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(file)
        os.close(folder)
