# SPDX-License-Identifier: Apache-2.0
"""Measures accepted tokens from one process to another: our ring, vLLM's MessageQueue, ZMQ over ipc, a SysV
message queue.

Ours encodes and decodes, from the packed records to the packed records and request ids. MessageQueue pickles, of
the same tokens, what vLLM's own output holds (lists) and the least that one could give it (two arrays); neither
with the request ids. ZMQ and SysV carry bytes that are made beforehand and are not looked at: ZMQ those of our
frame, SysV FastDeploy's fixed layout, 256 requests of 6 tokens (7,176 bytes), with top-k 512 requests of 6 tokens
and 21 candidates (530,444 bytes), in pieces of kernel.msgmax where that is smaller.

Rounds alternate between the transports, so that a drifting machine drifts for all. Throughput: the sender never
waits on purpose. Latency: at a fixed rate, from before the encoding until after the decoding.

    PYTHONPATH=. python benchmarks/mtp_output.py --build
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import vllm  # noqa: E402
import xxhash  # noqa: E402
import zmq  # noqa: E402
from mtp_transports import TIMEOUT_S, ChangingRing, Queue, Ring, SysV, Zmq, section_of  # noqa: E402
from report import print_machine, spread  # noqa: E402

from tests.support.host_build import build_host  # noqa: E402
from vllm_ascend_ext.mtp_output.frames.frame import Section  # noqa: E402
from vllm_ascend_ext.mtp_output.ring.backend import installed_backend, native_backend, python_backend  # noqa: E402


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
    ours, *others = results
    for name in others:
        if not name.startswith("our ring"):
            faster, later = (
                [mine[column] / theirs[column] for mine, theirs in zip(results[ours], results[name], strict=True)]
                for column in (0, 2)
            )
            ratios = f"messages/s {spread(faster, '.2f')}, p99 {spread(later, '.2f')}"
            print(f"  {ours} over {name}, round by round: {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 32, 256, 512])
    parser.add_argument("--top-k", type=int, nargs="+", default=[0, 20])
    parser.add_argument("--messages", type=int, default=40_000, help="of a throughput round without top-k")
    parser.add_argument("--rate", type=float, default=4000, help="messages a second, a tenth with top-k")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--build", action="store_true", help="build the C++ module here and measure it, too")
    arguments = parser.parse_args()
    backends = [python_backend()]
    if arguments.build:
        backends.insert(0, native_backend(build_host("ascend_ext_channel")))
    elif installed_backend().module:
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
