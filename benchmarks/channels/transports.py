# SPDX-License-Identifier: Apache-2.0
"""Implements what `mtp_output` measures beside our ring: vLLM's MessageQueue, ZMQ over ipc, a SysV queue."""

from __future__ import annotations

import ctypes
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from channels.ring import NUM_SLOTS, TIMEOUT_S, Call
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

from vllm_ascend_ext.mtp_output.frames.frame import FrameWriter, Section
from vllm_ascend_ext.mtp_output.ring.backend import python_backend

SYSV_BYTES, SYSV_TOPK_BYTES, SYSV_REQUESTS = 7176, 530_444, 256


class Queue:
    """Sends through vLLM's MessageQueue, one local reader."""

    def __init__(self, section: Section, as_lists: bool) -> None:
        counts = section.num_accepted_B.copy()
        accepted = np.arange(NUM_SLOTS) < counts[:, None]
        content: list[Any] = [section.token_ids()] if as_lists else [counts, section.token_ids_BS[accepted]]
        if section.top_k:
            parts = [section.topk_ids_BSK[accepted], section.topk_logprobs_BSK[accepted]]
            parts.append(section.token_ranks_BS[accepted])
            content += [part.tolist() for part in parts] if as_lists else parts
        self.content = content
        self.num_bytes = len(pickle.dumps((0, content), protocol=pickle.HIGHEST_PROTOCOL))
        self.queue = MessageQueue(1, 1, max_chunk_bytes=max(1 << 20, 2 * self.num_bytes), max_chunks=64)
        self.handle = self.queue.export_handle()

    def send(self) -> Call:
        self.queue.wait_until_ready()
        enqueue, content = self.queue.enqueue, self.content
        return lambda now: enqueue((now, content))

    def receive(self) -> Call:
        queue = MessageQueue.create_from_handle(self.handle, 0)
        queue.wait_until_ready()
        return lambda: queue.dequeue(timeout=TIMEOUT_S)[0]

    def close(self) -> None:
        del self.queue


class Zmq:
    """Sends by PUSH to PULL, bytes as they are."""

    def __init__(self, section: Section) -> None:
        memory = np.zeros(1 << 23, np.uint8)
        writer = FrameWriter(0, 0, python_backend().rows)
        for sequence in range(2):  # the second refers to the roster of the first, as ours do
            self.num_bytes = writer.write(memory.data, 0, 0, sequence, (section,))
        self.data = memory[8 : self.num_bytes].tobytes()
        self.folder = tempfile.TemporaryDirectory(dir="/tmp")
        self.endpoint = f"ipc://{self.folder.name}/queue"

    def send(self) -> Call:
        socket = zmq.Context().socket(zmq.PUSH)
        socket.bind(self.endpoint)
        return lambda now: socket.send(now.to_bytes(8, "little") + self.data)

    def receive(self) -> Call:
        socket = zmq.Context().socket(zmq.PULL)
        socket.connect(self.endpoint)
        return lambda: int.from_bytes(socket.recv()[:8], "little")

    def close(self) -> None:
        self.folder.cleanup()


class SysV:
    """Sends by msgsnd and msgrcv of fixed messages, cut into pieces of kernel.msgmax."""

    def __init__(self, section: Section) -> None:
        most = int(Path("/proc/sys/kernel/msgmax").read_text())
        batch = len(section.request_ids)
        one = SYSV_TOPK_BYTES if section.top_k else SYSV_BYTES * ((batch + SYSV_REQUESTS - 1) // SYSV_REQUESTS)
        whole = one if section.top_k else SYSV_BYTES
        piece = min(most, whole)
        self.num_bytes, self.pieces = one, [piece] * (one // piece) + [one % piece] * bool(one % piece)
        self.libc = ctypes.CDLL(None, use_errno=True)
        number, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
        self.libc.msgsnd.argtypes = [number, pointer, size, number]
        self.libc.msgrcv.argtypes = [number, pointer, size, ctypes.c_long, number]
        self.queue = self.libc.msgget(0, 0o1600)

    def _buffer(self) -> tuple[Any, int]:
        buffer = (ctypes.c_uint64 * (2 + max(self.pieces) // 8))(1)  # the type, then the text
        return buffer, ctypes.addressof(buffer)

    def send(self) -> Call:
        buffer, address = self._buffer()
        msgsnd, queue, pieces = self.libc.msgsnd, self.queue, self.pieces

        def send(now: int) -> int:
            buffer[1] = now
            for piece in pieces:
                if msgsnd(queue, address, piece, 0):
                    raise OSError(ctypes.get_errno(), "msgsnd")
            return 0

        return send

    def receive(self) -> Call:
        buffer, address = self._buffer()
        msgrcv, queue, pieces = self.libc.msgrcv, self.queue, self.pieces

        def receive() -> int:
            for piece in pieces:
                if msgrcv(queue, address, piece, 0, 0) < 0:
                    raise OSError(ctypes.get_errno(), "msgrcv")
            return int(buffer[1])

        return receive

    def close(self) -> None:
        self.libc.msgctl(self.queue, 0, None)
