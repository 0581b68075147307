# SPDX-License-Identifier: Apache-2.0
"""Measures our ring alone, of whatever build of the package PYTHONPATH names, for `mtp_output`, which starts it in
a process of its own; prints speed, p50, p99 and bytes as JSON. Imports nothing but numpy and the ring.

Batches: `steady` is the same requests in every step; in `new` all are others than in the step before; in
`sixteenth` one request in 16 is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vllm_ascend_ext.mtp_output.frames.section import Section, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.backend import native_backend, python_backend
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

NUM_SLOTS = 4
TIMEOUT_S = 120.0
NUM_BATCHES = 64
BATCHES = ("steady", "sixteenth", "new")
Call = Callable[..., int]


def section_of(num_requests: int, top_k: int) -> Section:
    """Returns a section of two to four accepted tokens a request, three on average."""
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


def batches_of(section: Section, kind: str) -> list[Section]:
    """Returns the sections of steps that follow each other in a circle, for a kind of `BATCHES`."""
    if kind == "steady":
        return [section]
    ids, found = list(section.request_ids), []
    num_new = len(ids) if kind == "new" else max(len(ids) // 16, 1)
    for step in range(NUM_BATCHES):
        for index in range(step * num_new, (step + 1) * num_new):
            ids[index % len(ids)] = f"chatcmpl-{index:032x}-{index % 1000}"
        found.append(section._replace(request_ids=tuple(ids)))
    return found


class Ring:
    """Ours. `step` carries the time."""

    def __init__(self, section: Section, backend: Any, kind: str = "steady") -> None:
        self.sections, self.backend, self.instance = batches_of(section, kind), backend, time.time_ns()
        size = RingSize.for_engine(len(section.request_ids), NUM_SLOTS - 1, section.top_k)
        self.sender = OutputSender(self.instance, 0, size, timeout_s=TIMEOUT_S, backend=backend)

    @property
    def num_bytes(self) -> float:
        stats = self.sender.stats
        return stats.bytes / stats.frames

    def send(self) -> Call:
        send, following = self.sender.send, itertools.cycle(self.sections)
        return lambda now: send(now, next(following))

    def receive(self) -> Call:
        receive = OutputReceiver(self.instance, 0, backend=self.backend).receive
        return lambda: receive(TIMEOUT_S).step

    def close(self) -> None:
        self.sender.close()


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


def measure(
    make: Callable[[], Any], num_messages: int, num_timed: int, rate: float
) -> tuple[float, float, float, float]:
    """Returns messages a second, then p50 and p99 in microseconds at `rate`, and bytes."""
    speed, _, num_bytes = run(make, num_messages, None)
    _, latencies, _ = run(make, num_timed, rate)
    points = statistics.quantiles(latencies, n=100)
    return speed, points[49], points[98], num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--batches", choices=BATCHES, default="steady")
    parser.add_argument("--module", type=Path, help="folder of the C++ module; without, in Python")
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--timed", type=int, default=4_000)
    parser.add_argument("--rate", type=float, default=4000)
    arguments = parser.parse_args()
    backend = native_backend(arguments.module) if arguments.module else python_backend()
    section = section_of(arguments.requests, arguments.top_k)
    found = measure(
        lambda: Ring(section, backend, arguments.batches), arguments.messages, arguments.timed, arguments.rate
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
