# SPDX-License-Identifier: Apache-2.0
"""Calls the C functions of csrc/control.cpp, in the libascendcl that torch_npu has loaded."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import TypeVar

_U64 = ctypes.c_uint64
_Library = TypeVar("_Library", bound=ctypes.CDLL)
_ARGUMENTS = {
    "EmulatorNumRaces": [],
    "EmulatorRaceText": [_U64, ctypes.c_char_p, _U64],
    "EmulatorFailure": [ctypes.c_char_p, _U64],
    "EmulatorClearRaces": [],
    "EmulatorSetChecking": [ctypes.c_int],
    "EmulatorChecking": [],
    "EmulatorSetSchedule": [_U64, ctypes.c_uint32],
    "EmulatorGateTrace": [],
    "EmulatorBlockAllocated": [_U64],
    "EmulatorBlockFreed": [_U64],
    "EmulatorStatistics": [ctypes.POINTER(_U64)],
}


def _load(kind: type[_Library]) -> _Library:
    try:
        library = kind("libascendcl.so", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = _U64
    except (OSError, AttributeError) as error:
        raise RuntimeError("this process does not run on the emulator, or has not imported torch_npu") from error
    return library


@functools.cache
def library() -> ctypes.CDLL:
    """Returns the functions; a call lets other Python threads run."""
    return _load(ctypes.CDLL)


@functools.cache
def short_calls() -> ctypes.PyDLL:
    """Returns the same functions for calls that are over at once: Python goes on holding its lock, and lines are
    found faster."""
    return _load(ctypes.PyDLL)


def text(function: Callable[..., int], *arguments: int) -> str:
    """Returns what a function writes that takes a buffer and its size last and returns the size of the whole
    text."""
    size = function(*arguments, None, 0)
    buffer = ctypes.create_string_buffer(size + 1)
    size = min(size, function(*arguments, buffer, size))
    return buffer.raw[:size].decode(errors="replace")
