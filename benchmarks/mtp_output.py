# SPDX-License-Identifier: Apache-2.0
"""Accepted tokens from one process to another: our ring, vLLM's MessageQueue, ZMQ over ipc, a SysV message queue.

Ours encodes and decodes, from the packed records to the packed records and request ids. MessageQueue pickles, of
the same tokens, what vLLM's own output holds (lists) and the least that one could give it (two arrays); neither
with the request ids. ZMQ and SysV carry bytes that are made beforehand and are not looked at: ZMQ those of our
frame, SysV FastDeploy's fixed layout, 256 requests of 6 tokens (7,176 bytes), with top-k 512 requests of 6 tokens
and 21 candidates (530,444 bytes), in pieces of kernel.msgmax where that is smaller.

Rounds alternate between the transports, so that a drifting machine drifts for all. Throughput: the sender never
waits on purpose. Latency: at a fixed rate, from before the encoding until after the decoding.

    python benchmarks/mtp_output.py --build
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import vllm  # noqa: E402
import xxhash  # noqa: E402
import zmq  # noqa: E402
from report import print_machine, spread  # noqa: E402
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue  # noqa: E402

from vllm_ascend_ext.mtp.frame import FrameWriter, Section, Source  # noqa: E402
from vllm_ascend_ext.mtp.native import installed_backend, native_backend, python_backend  # noqa: E402
from vllm_ascend_ext.mtp.receiver import OutputReceiver  # noqa: E402
from vllm_ascend_ext.mtp.ring_size import RingSize  # noqa: E402
from vllm_ascend_ext.mtp.rows import Memory, NumpyRows  # noqa: E402
from vllm_ascend_ext.mtp.sender import OutputSender  # noqa: E402

NUM_SLOTS = 4
TIMEOUT_S = 120.0
SYSV_BYTES, SYSV_TOPK_BYTES, SYSV_REQUESTS = 7176, 530_444, 256
ROOT = Path(__file__).resolve().parents[1]
Call = Callable[..., int]


def section_of(num_requests: int, top_k: int) -> Section:
    """Two to four accepted tokens a request, three on average."""
    rng, shape = np.random.default_rng(0), (num_requests, NUM_SLOTS)
    counts = rng.permutation(np.resize([3, 2, 4], num_requests)).astype(np.int32)
    tokens = rng.integers(0, 129_280, shape).astype(np.int32)
    topk = (
        (
            rng.integers(0, 129_280, (*shape, top_k)).astype(np.int32),
            rng.standard_normal((*shape, top_k)).astype(np.float32),
            rng.integers(0, 100, shape).astype(np.int32),
        )
        if top_k
        else ()
    )
    ids = tuple(f"chatcmpl-{rng.bytes(16).hex()}-{row}" for row in range(num_requests))
    return Section.from_arrays(Source.TARGET, ids, counts, np.zeros_like(counts), tokens, *topk)


class Ring:
    """Ours. `step` carries the time."""

    def __init__(self, section: Section, backend: Any) -> None:
        self.section, self.backend, self.instance = section, backend, time.time_ns()
        size = RingSize.for_engine(len(section.request_ids), NUM_SLOTS - 1, section.top_k)
        self.sender = OutputSender(self.instance, 0, size, timeout_s=TIMEOUT_S, backend=backend)

    @property
    def num_bytes(self) -> float:
        stats = self.sender.stats
        return stats.bytes / stats.frames

    def send(self) -> Call:
        send, section = self.sender.send, self.section
        return lambda now: send(now, section)

    def receive(self) -> Call:
        receive = OutputReceiver(self.instance, 0, backend=self.backend).receive
        return lambda: receive(TIMEOUT_S).step

    def close(self) -> None:
        self.sender.close()


class ChangingRing(Ring):
    """Ours, where the batch changes with every step: each frame carries its roster, and goes the long way."""

    def send(self) -> Call:
        other = self.section._replace(request_ids=tuple(f"{name}-again" for name in self.section.request_ids))
        send, following = self.sender.send, itertools.cycle([self.section, other])
        return lambda now: send(now, next(following))


class Queue:
    """vLLM's MessageQueue, one local reader."""

    def __init__(self, section: Section, as_lists: bool) -> None:
        counts = section.num_accepted_B.copy()
        accepted = np.arange(NUM_SLOTS) < counts[:, None]
        content: list[Any] = [section.token_ids()] if as_lists else [counts, section.token_ids_BS[accepted]]
        if section.top_k:
            parts = [section.topk_ids_BSK[accepted], section.topk_logprobs_BSK[accepted]]
            parts.append(section.token_ranks_BS[accepted])
            content += [part.tolist() for part in parts] if as_lists else parts
        self.content = content
        import pickle

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
    """PUSH to PULL, bytes as they are."""

    def __init__(self, section: Section) -> None:
        memory = np.zeros(1 << 23, np.uint8)
        writer = FrameWriter(0, 0, NumpyRows())
        for sequence in range(2):  # the second refers to the roster of the first, as ours do
            self.num_bytes = writer.write(Memory(memory.data, 0), 0, 0, sequence, (section,))
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
    """msgsnd and msgrcv of fixed messages, cut into pieces of kernel.msgmax."""

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


def run(make: Callable[[], Any], num_messages: int, rate: float | None) -> tuple[float, list[float], float]:
    """Messages a second, microseconds of each, bytes of one."""
    transport = make()
    here, there = multiprocessing.Pipe()

    def read() -> None:
        receive, latencies = transport.receive(), []
        receive()
        there.send("ready")
        begin = time.perf_counter()
        for _ in range(num_messages):
            sent = receive()
            latencies.append((time.monotonic_ns() - sent) / 1e3)
        there.send((num_messages / (time.perf_counter() - begin), latencies if rate else []))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    send = transport.send()
    send(time.monotonic_ns())
    assert here.poll(TIMEOUT_S) and here.recv() == "ready"
    begin = time.perf_counter()
    for index in range(num_messages):
        if rate is not None:
            time.sleep(max(begin + index / rate - time.perf_counter(), 0))
        send(time.monotonic_ns())
    assert here.poll(TIMEOUT_S), "the reader did not read all"
    speed, latencies = here.recv()
    num_bytes = transport.num_bytes
    process.join()
    transport.close()
    return speed, latencies, num_bytes


def transports(section: Section, backends: list[Any]) -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {
        f"our ring, {backend.name}{of}": lambda kind=kind, backend=backend: kind(section, backend)
        for backend in backends
        for kind, of in ((Ring, ""), (ChangingRing, ", new batch"))
    }
    made["MessageQueue, lists"] = lambda: Queue(section, True)
    made["MessageQueue, arrays"] = lambda: Queue(section, False)
    made["ZMQ ipc, raw"] = lambda: Zmq(section)
    made["SysV, raw"] = lambda: SysV(section)
    return made


def measure(num_requests: int, top_k: int, backends: list[Any], arguments: argparse.Namespace) -> None:
    section = section_of(num_requests, top_k)
    rate = arguments.rate / (10 if top_k else 1)
    print(f"{num_requests} requests x 3 tokens, top-k {top_k}; latency at {rate:g}/s")
    print(f"  {'':28} {'messages/s':>28} {'p50 us':>24} {'p99 us':>26} {'bytes':>9}")
    results: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(arguments.rounds):
        for name, make in transports(section, backends).items():
            speed, _, num_bytes = run(make, arguments.messages // (20 if top_k else 1), None)
            _, latencies, _ = run(make, arguments.messages // (100 if top_k else 10), rate)
            points = statistics.quantiles(latencies, n=100)
            results.setdefault(name, []).append((speed, points[49], points[98], num_bytes))
    for name, rounds in results.items():
        speeds, p50, p99, num_bytes = zip(*rounds, strict=True)
        print(
            f"  {name:28} {spread(speeds, ',.0f'):>28} {spread(p50, ',.0f'):>24} {spread(p99, ',.0f'):>26} "
            f"{num_bytes[0]:9,.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 32, 256, 512])
    parser.add_argument("--top-k", type=int, nargs="+", default=[0, 20])
    parser.add_argument("--messages", type=int, default=40_000, help="of a throughput round without top-k")
    parser.add_argument("--rate", type=float, default=4000, help="messages a second, a tenth with top-k")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--build", action="store_true", help="build the C++ library here and measure it, too")
    arguments = parser.parse_args()
    backends = [python_backend()]
    if arguments.build:
        build = ROOT / "build/host"
        for command in (["-S", ROOT, "-B", build], ["--build", build, "--target", "ascend_ext_channel"]):
            subprocess.run(["cmake", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        backends.insert(0, native_backend(build / "libascend_ext_channel.so"))
    elif installed_backend().functions:
        backends.insert(0, installed_backend())
    sizes = [Path(f"/proc/sys/kernel/{name}").read_text().strip() for name in ("msgmax", "msgmnb")]
    setting = f"xxhash {xxhash.VERSION}, kernel.msgmax {sizes[0]}, kernel.msgmnb {sizes[1]}"
    print_machine(np, vllm, zmq, setting=setting)
    print(f"medians of {arguments.rounds} rounds [middle half]")
    for top_k in arguments.top_k:
        for num_requests in arguments.requests:
            measure(num_requests, top_k, backends, arguments)


if __name__ == "__main__":
    main()
