# SPDX-License-Identifier: Apache-2.0
"""Tells what this process has handed to the emulator's HCCL, which counts each call on any communicator."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple


class Traffic(NamedTuple):
    """Counts the calls of one operation, and the bytes that they read of this rank's buffers."""

    calls: int
    bytes: int

    def since(self, before: Traffic) -> Traffic:
        """Returns what has come since an earlier count."""
        return Traffic(self.calls - before.calls, self.bytes - before.bytes)


def traffic(operation: str) -> Traffic:
    """Returns the counts since the process began, of "HcclAllReduce", "HcclAllGather", "HcclReduceScatter" …"""
    library = ctypes.CDLL("libhccl.so", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    library.EmulatorTraffic.restype = ctypes.c_uint64
    size = ctypes.c_uint64()
    calls = library.EmulatorTraffic(operation.encode(), ctypes.byref(size))
    return Traffic(calls, size.value)
