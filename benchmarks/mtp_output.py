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

With --baseline, a checkout of an older commit, that commit's ring takes part in the same rounds, by the same
script (`channels/ring.py`) in processes that import its package.

    git worktree add /tmp/before 8207f503
    PYTHONPATH=. python benchmarks/mtp_output.py --baseline /tmp/before
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import vllm  # noqa: E402
import xxhash  # noqa: E402
import zmq  # noqa: E402
from channels.ring import BATCHES, measure, section_of  # noqa: E402
from channels.transports import Queue, SysV, Zmq  # noqa: E402
from report import print_machine, spread  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BUILD = "from tests.support.host_build import build_host; print(build_host('ascend_ext_channel'))"
OURS, BEFORE, PYTHON = "ours", "before", "ours, Python"
Measured = tuple[float, float, float, float]  # messages a second, p50 us, p99 us, bytes


def environment(root: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(root)}


def module_of(root: Path) -> str:
    """Builds the C++ module of a checkout; returns its folder."""
    build = [sys.executable, "-c", BUILD]
    done = subprocess.run(
        build, cwd=root, env=environment(root), check=True, capture_output=True, text=True, timeout=900
    )
    return done.stdout.strip().splitlines()[-1]


def our_ring(root: Path, module: str, batches: str) -> Callable[..., Measured]:
    """Returns what measures the ring of the package in `root`, in a process of its own."""

    def measured(num_requests: int, top_k: int, num_messages: int, num_timed: int, rate: float) -> Measured:
        command = [sys.executable, str(ROOT / "benchmarks" / "channels" / "ring.py"), "--batches", batches]
        command += ["--requests", str(num_requests), "--top-k", str(top_k), "--rate", str(rate)]
        command += ["--messages", str(num_messages), "--timed", str(num_timed)]
        command += ["--module", module] if module else []
        done = subprocess.run(
            command, env=environment(root), stdout=subprocess.PIPE, text=True, check=True, timeout=900
        )
        found: Measured = tuple(json.loads(done.stdout))
        return found

    return measured


def other(make: Callable[[Any], Any]) -> Callable[..., Measured]:
    """Returns what measures another transport, in this process."""

    def measured(num_requests: int, top_k: int, num_messages: int, num_timed: int, rate: float) -> Measured:
        section = section_of(num_requests, top_k)
        return measure(lambda: make(section), num_messages, num_timed, rate)

    return measured


def transports(arguments: argparse.Namespace) -> dict[str, Callable[..., Measured]]:
    made: dict[str, Callable[..., Measured]] = {}
    builds = [(OURS, ROOT)] + ([(BEFORE, arguments.baseline.resolve())] if arguments.baseline else [])
    modules = {name: module_of(root) for name, root in builds}
    for batches in BATCHES:
        made |= {f"{name}, {batches}": our_ring(root, modules[name], batches) for name, root in builds}
    if arguments.python:
        made[PYTHON] = our_ring(ROOT, "", "steady")
    return made | {
        "MessageQueue, lists": other(lambda section: Queue(section, True)),
        "MessageQueue, arrays": other(lambda section: Queue(section, False)),
        "ZMQ ipc, raw": other(Zmq),
        "SysV, raw": other(SysV),
    }


def compare(num_requests: int, top_k: int, arguments: argparse.Namespace, made: dict[str, Any]) -> None:
    rate = arguments.rate / (10 if top_k else 1)
    sizes = arguments.messages // (20 if top_k else 1), arguments.messages // (100 if top_k else 10)
    print(f"{num_requests} requests x 3 tokens, top-k {top_k}; latency at {rate:g}/s")
    print(f"  {'':28} {'messages/s':>28} {'p50 us':>24} {'p99 us':>26} {'bytes':>9}")
    results: dict[str, list[Measured]] = {}
    for _ in range(arguments.rounds):
        for name, measured in made.items():
            results.setdefault(name, []).append(measured(num_requests, top_k, *sizes, rate))
    for name, rounds in results.items():
        speeds, p50, p99, num_bytes = zip(*rounds, strict=True)
        print(
            f"  {name:28} {spread(speeds, ',.0f'):>28} {spread(p50, ',.0f'):>24} {spread(p99, ',.0f'):>26} "
            f"{num_bytes[0]:9,.0f}",
            flush=True,
        )
    for batches in BATCHES:
        for name in (f"{BEFORE}, {batches}", "MessageQueue, arrays", "MessageQueue, lists", "SysV, raw"):
            if name in results:
                print_ratio(f"{OURS}, {batches}", name, results)


def print_ratio(ours: str, name: str, results: dict[str, list[Measured]]) -> None:
    faster, later = (
        [mine[column] / theirs[column] for mine, theirs in zip(results[ours], results[name], strict=True)]
        for column in (0, 2)
    )
    print(
        f"  {ours} over {name}, round by round: messages/s {spread(faster, '.2f')}, p99 {spread(later, '.2f')}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 32, 256, 512])
    parser.add_argument("--top-k", type=int, nargs="+", default=[0, 20])
    parser.add_argument("--messages", type=int, default=40_000, help="of a throughput round without top-k")
    parser.add_argument("--rate", type=float, default=4000, help="messages a second, a tenth with top-k")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--baseline", type=Path, help="checkout of an older commit to measure, too")
    parser.add_argument("--python", action="store_true", help="measure the ring without the C++ module, too")
    arguments = parser.parse_args()
    limits = [Path(f"/proc/sys/kernel/{name}").read_text().strip() for name in ("msgmax", "msgmnb")]
    setting = f"xxhash {xxhash.VERSION}, kernel.msgmax {limits[0]}, kernel.msgmnb {limits[1]}"
    print_machine(np, vllm, zmq, setting=setting)
    if arguments.baseline:
        at = subprocess.run(
            ["git", "-C", arguments.baseline, "log", "-1", "--format=%h %s"], capture_output=True, text=True
        )
        print(f"before: {at.stdout.strip()}")
    print(f"medians of {arguments.rounds} rounds [middle half]")
    made = transports(arguments)
    for top_k in arguments.top_k:
        for num_requests in arguments.requests:
            compare(num_requests, top_k, arguments, made)


if __name__ == "__main__":
    main()
