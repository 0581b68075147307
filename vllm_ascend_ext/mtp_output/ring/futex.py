# SPDX-License-Identifier: Apache-2.0
"""Waits by Linux futexes on words of shared memory: a process sleeps until a word changes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from math import modf

_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_WAIT, _WAKE = 0, 1
_EVERYBODY = 2**31 - 1
MASK = 2**32 - 1


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


class Futex:
    """Calls the futex system call.

    Raises:
        OSError: another system than 64-bit little-endian Linux.
    """

    def __init__(self) -> None:
        number = _NUMBERS.get(platform.machine())
        if sys.platform != "linux" or number is None or sys.byteorder != "little":
            raise OSError(
                errno.ENOSYS,
                f"the ring in shared memory waits by futexes of 64-bit little-endian Linux, which "
                f"{sys.platform} on {platform.machine()} is not; use the ZMQ transport from a host that is",
            )
        self._number = number
        long, pointer = ctypes.c_long, ctypes.c_void_p
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.argtypes = [long, pointer, long, long, pointer]
        self._syscall.restype = long

    def wait(self, address: int, expected: int, timeout_s: float) -> None:
        """Sleeps while the 32-bit word at `address` holds `expected`; may return early, so look again."""
        fraction, seconds = modf(max(timeout_s, 0.0))
        timespec = _Timespec(int(seconds), int(fraction * 1e9))
        code = self._syscall(self._number, address, _WAIT, expected & MASK, ctypes.addressof(timespec))
        if code and (number := ctypes.get_errno()) not in (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
            raise OSError(number, f"futex wait: {os.strerror(number)}")

    def wake(self, address: int) -> None:
        """Wakes everybody who waits on the word at `address`."""
        self._syscall(self._number, address, _WAKE, _EVERYBODY, None)
