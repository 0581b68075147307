# SPDX-License-Identifier: Apache-2.0
"""Locks a ring's file for one process: an end for as long as the process holds it, the whole file for a decision.

The kernel releases these locks with their process, however that ends, and they are the same in every PID namespace
that shares the file. They belong to an open file description: one of its own, of which no memory is mapped (a
mapping would keep it open) and which forked children close at once (a child would keep it open, too).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_ascend_ext.mtp_output.errors import ChannelInUseError

DECISION_DEADLINE_S = 5.0
_POLL_S = 0.0005
_FLOCK = struct.Struct("hhqqi0q")  # struct flock of 64-bit Linux: type, whence, start, length, process


def is_held(file: int, at: int) -> bool:
    """Returns whether a process holds byte `at` of the file by another description than `file`."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    (kind, *_) = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    return bool(kind != fcntl.F_UNLCK)


class RingLock:
    """Holds this process's locks on one ring; owns `file`, a writable descriptor that is used for nothing else."""

    def __init__(self, file: int, path: Path) -> None:
        self._file, self._path = file, path
        self.is_owner = False
        _locks.add(self)

    @property
    def status(self) -> os.stat_result:
        """Returns which file it is."""
        return os.fstat(self._file)

    def claim(self, at: int) -> bool:
        """Takes byte `at`, which stands for an end, until `close` or this process's end; returns whether it was
        free."""
        try:
            wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            return False
        self.is_owner = True
        return True

    @contextmanager
    def decision(self, timeout_s: float = DECISION_DEADLINE_S) -> Iterator[None]:
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
                    raise ChannelInUseError(f"{self._path} is locked for {timeout_s:g} s") from None
                time.sleep(_POLL_S)
        try:
            yield
        finally:
            if self._file >= 0:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives up the locks; a second call does nothing."""
        if self._file >= 0:
            file, self._file = self._file, -1
            self.is_owner = False
            os.close(file)


_locks: weakref.WeakSet[RingLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Closes, in a forked child, the descriptors of locks that are its parent's: the parent still holds them."""
    for lock in list(_locks):
        lock.close()


os.register_at_fork(after_in_child=_leave_to_parent)
