# SPDX-License-Identifier: Apache-2.0
"""Programs that register memory of their own with the runtime and touch it too early, and their twins."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from tests.emulator.races.device_work import runtime
from tests.emulator.races.planted import Planted, _full

BYTES = 4 * mmap.PAGESIZE
SIZE = BYTES // 4
FLAGS = {"private": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, "shared": mmap.MAP_SHARED | mmap.MAP_ANONYMOUS}


@contextmanager
def registered(kind: str) -> Iterator[torch.Tensor]:
    """Gives memory of the program's own that the runtime may copy from and to asynchronously."""
    memory = mmap.mmap(-1, BYTES, flags=FLAGS[kind])
    values = torch.frombuffer(memory, dtype=torch.float32)
    device_pointer = ctypes.c_void_p()
    address = ctypes.c_void_p(values.data_ptr())
    assert runtime().aclrtHostRegister(address, ctypes.c_uint64(BYTES), 0, ctypes.byref(device_pointer)) == 0
    try:
        yield values
    finally:
        torch.npu.synchronize()
        assert runtime().aclrtHostUnregister(address) == 0


def copy(target: torch.Tensor, source: torch.Tensor, kind: int) -> None:
    """Copies on the current stream, as the runtime's own function does: 1 to the device, 2 to the host."""
    size, stream = ctypes.c_size_t(target.nbytes), ctypes.c_void_p(torch.npu.current_stream().npu_stream)
    pointers = ctypes.c_void_p(target.data_ptr()), ctypes.c_void_p(source.data_ptr())
    assert runtime().aclrtMemcpyAsync(pointers[0], size, pointers[1], size, kind, stream) == 0


def early_read(correct: bool, kind: str) -> bool:
    """Reads a part of registered memory before the copy that brings it is known to be complete."""
    values = _full(3, 16)
    with registered(kind) as host:
        copy(host[100:116], values, 2)
        if correct:
            assert host[:100].sum() == 0  # beside it
            torch.npu.current_stream().synchronize()
        right = bool((host[100:120].clone()[:16] == 3).all())
    return right


def early_write(correct: bool, kind: str) -> bool:
    """Fills registered memory that its copy to the device still reads."""
    values = _full(0, 16)
    with registered(kind) as host:
        host.fill_(5)
        copy(values, host[100:116], 1)
        if correct:
            torch.npu.current_stream().synchronize()
        host.fill_(6)
    return bool((values.cpu() == 5).all())


def _planted(run: Callable[[bool, str], bool], kind: str, report: str) -> Planted:
    def named(correct: bool) -> bool:
        return run(correct, kind)

    named.__name__ = f"{run.__name__}_{kind}"
    return Planted(named, (report, f"in {run.__name__}"))


REGISTERED = [
    _planted(run, kind, report)
    for kind in FLAGS
    for run, report in (
        (early_read, "reads pinned memory before"),
        (early_write, "overwrites pinned memory while"),
    )
]
