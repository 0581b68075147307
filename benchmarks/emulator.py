# SPDX-License-Identifier: Apache-2.0
"""Measures what the emulator's race checker costs, how many operators run a second, how long an all_reduce takes.

Two pairs of ranks live side by side, one with the checker and one without (EMULATOR_RACES), on devices 0 and 1. In
each turn every job runs on one pair and then on the other, in the order A B, B A, ..., so that both see the same
machine; each turn gives one ratio. Jobs end with a synchronisation. The first turn is not counted.

    python -m emulator run -- python benchmarks/emulator.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import print_machine, spread

WITH, WITHOUT = "1", "0"  # values of EMULATOR_RACES
NUM_RANKS = 2
JOBS = (
    "small operators",
    "layers on two streams",
    "views of 60,000 rows",
    "pinned copies",
    "all_reduce of 16 floats, 2 ranks",
)
Job = Callable[[], int]  # returns how many operations it ran


def make_jobs(device: str) -> dict[str, Job]:
    """Makes the jobs, in the order of JOBS; each runs on both ranks of a pair."""
    import torch
    import torch.distributed as dist

    small, total, rows = (torch.zeros(*size, device=device) for size in ((16,), (16,), (120_000, 4)))
    hidden_TH, weight_HH = torch.randn(64, 256, device=device), torch.randn(256, 256, device=device) / 16
    side, ready, done = torch.npu.Stream(), torch.npu.Event(), torch.npu.Event()
    pinned, target = torch.ones(4096, pin_memory=True), torch.zeros(4096, device=device)

    def operators() -> int:
        for _ in range(1000):
            total.add_(small)
        return 1000

    def layers() -> int:
        """Runs two streams with events, new blocks for every result."""
        x_TH = hidden_TH
        for _ in range(50):
            x_TH = torch.softmax(x_TH @ weight_HH, dim=-1) + hidden_TH
            ready.record()
            with torch.npu.stream(side):
                ready.wait()
                x_TH.record_stream(side)
                total.add_(x_TH.sum())
                done.record()
            done.wait()
        return 50 * 5

    def views() -> int:
        for _ in range(10):
            rows[::2].add_(1)
        return 10

    def copies() -> int:
        """Copies pinned buffers to the device and back; the host writes and reads them."""
        for step in range(100):
            pinned[0] = step
            target.copy_(pinned, non_blocking=True)
            back = target.to("cpu", non_blocking=True)
            torch.npu.current_stream().synchronize()
            assert back[0] == step
        return 200

    def all_reduce() -> int:
        for _ in range(200):
            dist.all_reduce(small)
        return 200

    return dict(zip(JOBS, (operators, layers, views, copies, all_reduce), strict=True))


def work(rank: int, store: str) -> None:
    """Runs a rank, which does the jobs that its input names, one a line, and answers with seconds and
    operations."""
    import torch
    import torch.distributed as dist
    import torch_npu  # noqa: F401

    torch.npu.set_device(rank)
    dist.init_process_group("hccl", init_method=f"file://{store}", rank=rank, world_size=NUM_RANKS)
    jobs = make_jobs(f"npu:{rank}")
    print("ready", flush=True)
    for line in sys.stdin:
        job = jobs[line.strip()]
        torch.npu.synchronize()
        begin = time.perf_counter()
        count = job()
        torch.npu.synchronize()
        print(time.perf_counter() - begin, count, flush=True)
    dist.destroy_process_group()


class Pair:
    """Starts two ranks, with or without the checker."""

    def __init__(self, races: str, store: Path) -> None:
        environ = os.environ | {"EMULATOR_RACES": races, "EMULATOR_SEED": "0"}
        self._ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", str(rank), "--store", str(store)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
            )
            for rank in range(NUM_RANKS)
        ]  # fmt: skip
        for rank in range(NUM_RANKS):
            self._answer(rank)

    def _answer(self, rank: int) -> str:
        output = self._ranks[rank].stdout
        assert output is not None
        if not (line := output.readline()):
            raise RuntimeError(f"rank {rank} ended with status {self._ranks[rank].wait()}")
        return line

    def run(self, job: str) -> tuple[float, int]:
        """Seconds and operations of rank 0, with all ranks at it."""
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.write(f"{job}\n")
            process.stdin.flush()
        seconds, count = [self._answer(rank) for rank in range(NUM_RANKS)][0].split()
        return float(seconds), int(count)

    def end(self) -> None:
        """Lets the ranks leave; a race that was found is an error of the benchmark."""
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.close()
        if any([process.wait() for process in self._ranks]):
            raise RuntimeError("a rank did not end with status 0")


def measure(num_turns: int) -> dict[str, dict[str, list[float]]]:
    """Seconds an operation of each counted turn, by job and by EMULATOR_RACES."""
    seconds: dict[str, dict[str, list[float]]] = {job: {WITH: [], WITHOUT: []} for job in JOBS}
    with tempfile.TemporaryDirectory() as folder:
        pairs = {races: Pair(races, Path(folder, races)) for races in (WITH, WITHOUT)}
        for turn in range(num_turns + 1):
            for job in JOBS:
                for races in (WITH, WITHOUT) if turn % 2 else (WITHOUT, WITH):
                    taken, count = pairs[races].run(job)
                    if turn > 0:
                        seconds[job][races].append(taken / count)
        for pair in pairs.values():
            pair.end()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "EMULATOR_LIB" not in os.environ:
        parser.error("run it on the emulator: python -m emulator run -- python benchmarks/emulator.py")
    if arguments.rank is not None:
        work(arguments.rank, arguments.store)
        return
    import torch
    import torch_npu

    print_machine(torch, torch_npu, setting=f"TASK_QUEUE_ENABLE {os.environ.get('TASK_QUEUE_ENABLE', 'unset')}")
    seconds = measure(arguments.turns)
    print(f"{arguments.turns} turns; median [middle half]; cost: time with the checker / time without it")
    for job, taken in seconds.items():
        cost = [on / off for on, off in zip(taken[WITH], taken[WITHOUT], strict=True)]
        print(f"  {job}: cost {spread(cost, '.2f')}")
        for name, races in (("with", WITH), ("without", WITHOUT)):
            rate = spread([1 / value for value in taken[races]], ",.0f")
            latency = spread([1e6 * value for value in taken[races]], ".1f")
            print(f"    {name:8} {rate} a second, {latency} us each")


if __name__ == "__main__":
    main()
