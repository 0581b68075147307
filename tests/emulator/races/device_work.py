# SPDX-License-Identifier: Apache-2.0
"""Gives the emulated device work that needs no operators: copies, host functions, programs of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SIZE = 1024
MIB = 1 << 20


def filled(value: float) -> torch.Tensor:
    """Returns a filled tensor on the device."""
    import torch

    return torch.full((SIZE,), value).to("npu")


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copies on the current stream, from device to device."""
    import torch_npu

    torch_npu.copy_memory_(target, source, non_blocking=True)


def value_of(tensor: torch.Tensor) -> float:
    """Returns the value that all elements have."""
    values = tensor.cpu().unique().tolist()
    assert len(values) == 1
    return float(values[0])


def run_program(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a process of its own, for what a process cannot recover from."""
    preface = "import torch, torch_npu\n"
    environment = {**os.environ, "EMULATOR_RACE_LOG": "", **variables}
    command = [sys.executable, "-c", preface + program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def runtime() -> ctypes.CDLL:
    """Returns the emulated runtime itself."""
    return ctypes.CDLL("libascendcl.so")


def recent_message() -> str:
    """Returns what the runtime has to say about the last error of this thread."""
    library = runtime()
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return library.aclGetRecentErrMsg().decode()


class HostGate:
    """Holds a stream in a host function until it is opened."""

    def __init__(self, stream: torch.npu.Stream, before: torch.npu.Event | None = None) -> None:
        if before is not None:
            before.record(stream)
        self._open = ctypes.c_int(0)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._wait)
        handle = ctypes.c_void_p(stream.npu_stream)
        assert runtime().aclrtLaunchHostFunc(handle, self._function, None) == 0

    def _wait(self, _: object) -> None:
        deadline = time.monotonic() + 20
        while not self._open.value and time.monotonic() < deadline:
            time.sleep(0.001)

    def open(self) -> None:
        self._open.value = 1
