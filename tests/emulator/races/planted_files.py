# SPDX-License-Identifier: Apache-2.0
"""Programs that hand pinned memory to the system while a copy of a part of it is pending, and their twins."""

from __future__ import annotations

import os
import socket
import tempfile

import torch

from tests.emulator.races.planted import Planted, _full

SIZE = 64


def _bytes(values: torch.Tensor) -> memoryview:
    return memoryview(values.numpy()).cast("B")


def early_write_to_file(correct: bool) -> bool:
    """Writes a buffer to a file while a part of it, or a neighbour, is still on its way."""
    buffer = torch.ones(SIZE, pin_memory=True)
    buffer[16:32].copy_(_full(7, 16), non_blocking=True)
    with tempfile.TemporaryFile(buffering=0) as file:
        written = file.write(_bytes(buffer[:16] if correct else buffer[:20]))
        os.pwrite(file.fileno(), _bytes(buffer[32:]), 1000)
    torch.npu.synchronize()
    return written == 64 and bool((buffer[16:32] == 7).all())


def early_read_from_file(correct: bool) -> bool:
    """Reads a file into a buffer a part of which is still copied to the device."""
    buffer = torch.ones(SIZE, pin_memory=True)
    other = torch.zeros(SIZE, pin_memory=True)
    values = _full(0, 16)
    values.copy_(buffer[16:32], non_blocking=True)
    other[16:32].copy_(_full(7, 16), non_blocking=True)
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(_bytes(torch.full((SIZE,), 5.0)))
        file.seek(0)
        file.readinto(_bytes(other[40:]))
        file.seek(0)
        file.readinto(_bytes(buffer[:16] if correct else buffer))
    torch.npu.synchronize()
    return bool((values.cpu() == 1).all() and (buffer[:16] == 5).all() and (other[40:] == 5).all())


def early_send(correct: bool) -> bool:
    """Sends a buffer to another process while a part of it is still on its way."""
    buffer = torch.ones(SIZE, pin_memory=True)
    buffer[16:32].copy_(_full(7, 16), non_blocking=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if correct:
            ours.sendmsg([_bytes(buffer[:16]), _bytes(buffer[32:])])
            torch.npu.current_stream().synchronize()
        ours.sendall(_bytes(buffer))
        torch.npu.synchronize()
        theirs.recv(64 + 128 if correct else 0)
        received = torch.frombuffer(bytearray(theirs.recv(4 * SIZE)), dtype=torch.float32)
    return bool((received[16:32] == 7).all() and (received[:16] == 1).all())


FILES = [
    Planted(early_write_to_file, ("reads pinned memory before", "in early_write_to_file")),
    Planted(early_read_from_file, ("overwrites pinned memory while", "in early_read_from_file")),
    Planted(early_send, ("reads pinned memory before", "in early_send")),
]
