# SPDX-License-Identifier: Apache-2.0
"""Controls the race checker of this process, from Python."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import control


@dataclass(frozen=True)
class Statistics:
    """Holds what the checker has seen of this process."""

    num_tasks: int  # operators, copies, collectives, replays
    num_copies: int
    num_bytes: int  # that tasks read and wrote
    num_intervals: int  # pieces into which memory is divided now


def reports() -> list[str]:
    """Returns the races found since the process began or :func:`clear` was called; each pair of places once."""
    library = control.library()
    return [control.text(library.EmulatorRaceText, index) for index in range(library.EmulatorNumRaces())]


def clear() -> None:
    """Forgets the reports: the same pair is reported again, and the process may leave with its own status."""
    control.library().EmulatorClearRaces()


@contextlib.contextmanager
def expect(*patterns: str) -> Iterator[list[str]]:
    """Expects a race in the block, which has a planted bug: some report must match every pattern (regular
    expressions).

    The list is filled with the reports when the block ends, and they are cleared. Call it with no reports open.
    """
    if earlier := reports():
        raise AssertionError("reports from before the block:\n" + "\n".join(earlier))
    found: list[str] = []
    try:
        yield found
    finally:
        found.extend(reports())
        clear()
    if not any(all(re.search(pattern, report) for pattern in patterns) for report in found):
        shown = "\n".join(found) or "no reports"
        raise AssertionError(f"no report matches {patterns}; there are:\n{shown}")


def failure() -> str:
    """Returns the device's asynchronous failure, once everything issued so far has run; empty without one."""
    return control.text(control.library().EmulatorFailure)


def set_checking(on: bool) -> None:
    """Looks for races from now on, or not; no effect where EMULATOR_RACES=0 left the checker out from the
    start."""
    control.library().EmulatorSetChecking(on)


def statistics() -> Statistics:
    """Counts since the process began."""
    values = (ctypes.c_uint64 * 4)()
    control.library().EmulatorStatistics(values)
    return Statistics(*values)


def enable_block_history() -> None:
    """Tells the checker of every block that torch's caching allocators hand out and take back, with the lines.

    torch_npu's own sanitizer hook does it: its trace calls Python for each block, unless an exception is on its
    way. Not with torch_npu's task queue: that thread records events under the allocator's lock, and the hook would
    wait there for Python's.
    """
    if not control.library().EmulatorChecking() or os.environ.get("TASK_QUEUE_ENABLE") != "0":
        return
    import torch_npu
    from torch_npu.utils import _npu_trace

    # Hooks that torch_npu 2.13.0 fires and does not define; it would log an error for each call.
    for name in ("NPUEventGetHandleCallbacks", "NPUEventOpenHandleCallbacks"):
        if not hasattr(_npu_trace, name):
            setattr(_npu_trace, name, _npu_trace.CallbackRegistry(name))
    library = control.short_calls()
    _npu_trace.register_callback_for_npu_memory_allocation(library.EmulatorBlockAllocated, "emulator")
    _npu_trace.register_callback_for_npu_memory_deallocation(library.EmulatorBlockFreed, "emulator")
    if not library.EmulatorGateTrace():
        raise RuntimeError("libtorch_npu.so does not import Py_IsInitialized: another torch_npu?")
    if not ctypes.CDLL("libopapi.so").EmulatorWatchPinnedBlocks():
        raise RuntimeError("torch_npu has registered no allocator of pinned memory: another torch_npu?")
    stream_mode = 0  # SanitizerMode.STREAM of torch_npu.npu._sanitizer
    torch_npu._C._activate_npu_trace(stream_mode)
