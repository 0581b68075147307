# SPDX-License-Identifier: Apache-2.0
"""Programs of two ranks with one planted bug each, and their corrected twins; ranks are processes over HCCL.

``python -m tests.emulator.races.planted_ranks RUNS SEEDS`` imports torch_npu once and forks the ranks of each run:
every program RUNS times with its bug and no delays, and once corrected, under SEEDS seeds in turn. It prints one
line of JSON for each run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.emulator.races.peers.planted_peers import PEERS
from tests.emulator.races.planted import run_expert_load

NUM_RANKS = 2
DEADLINE_S = 60
WATCHDOG_S = 1.6  # torch_npu's looks about once a second


def mismatched_collective(correct: bool, rank: int) -> bool:
    """Lets one rank add up where the other gathers."""
    values = torch.full((8,), float(rank + 1), device="npu")
    if correct or rank == 0:
        dist.all_reduce(values)
    else:
        dist.all_gather_into_tensor(torch.empty(16, device="npu"), values)
    return bool((values.cpu() == 3).all())


def mismatched_count(correct: bool, rank: int) -> bool:
    """Lets the ranks add up tensors of different sizes."""
    values = torch.full((8 if correct else 8 + rank,), float(rank + 1), device="npu")
    dist.all_reduce(values)
    return bool((values.cpu() == 3).all())


def dead_peer(correct: bool, rank: int) -> bool:
    """Lets one rank die before the collective that the other waits in."""
    values = torch.full((8,), float(rank + 1), device="npu")
    dist.all_reduce(values)
    torch.npu.synchronize()
    if rank == 1 and not correct:
        os._exit(0)
    dist.all_reduce(values)
    return bool((values.cpu() == 6).all())


def memory_used_twice(correct: bool, rank: int) -> bool:
    """Sends, gathers and exchanges with operands that overlap within one call, or lie apart or in place."""
    values = torch.full((8,), float(rank), device="npu")
    received = torch.empty(8, device="npu") if correct else values
    peer = 1 - rank
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, values, peer), dist.P2POp(dist.irecv, received, peer)]
    ):
        work.wait()
    gathered = torch.zeros(16, device="npu")
    begin = 8 * rank if correct else 4  # its own part, or bytes of both
    gathered[begin : begin + 8].fill_(rank + 1)
    dist.all_gather_into_tensor(gathered, gathered[begin : begin + 8])
    exchanged = torch.empty(16, device="npu") if correct else gathered
    dist.all_to_all_single(exchanged, gathered)
    right = (received == peer).all() and (gathered[:8] == 1).all() and (gathered[8:] == 2).all()
    return bool(right and (exchanged == rank + 1).all())


def missing_work_wait(correct: bool, rank: int) -> bool:
    """Uses a sum without a wait for its collective, after the watchdog has seen it complete."""
    values = torch.full((8,), float(rank + 1), device="npu")
    work = dist.all_reduce(values, async_op=True)
    if correct:
        work.wait()
    else:
        time.sleep(WATCHDOG_S)
    return bool((values * 2).cpu().eq(6).all())


def expert_load_of_4214(correct: bool, rank: int) -> bool:
    """Repeats the pattern of vllm-ascend #4214 with its collective."""
    return run_expert_load(correct, dist.all_gather_into_tensor)


PROGRAMS: dict[str, Callable[[bool, int], bool]] = {
    program.__name__: program
    for program in (
        mismatched_collective,
        mismatched_count,
        dead_peer,
        missing_work_wait,
        memory_used_twice,
        expert_load_of_4214,
        *PEERS,
    )
}


def run_rank(program: Callable[[bool, int], bool], correct: bool, rank: int, folder: str, seeds: range) -> None:
    """Runs one rank: under every seed in turn."""
    from emulator import races, schedule

    right, error = [], ""
    try:
        torch.npu.set_device(rank)
        rendezvous = f"file://{folder}/rendezvous"
        timeout = timedelta(seconds=DEADLINE_S)
        dist.init_process_group("hccl", init_method=rendezvous, rank=rank, world_size=NUM_RANKS, timeout=timeout)
        for seed in seeds:
            schedule.set_seed(seed)
            right.append(program(correct, rank))
    except Exception as raised:
        error = str(raised)
    found = {"rank": rank, "right": right, "reports": races.reports(), "error": error}
    Path(folder, f"rank{rank}").write_text(json.dumps(found))


def run_ranks(program: Callable[[bool, int], bool], correct: bool, seeds: range) -> list[dict[str, object] | None]:
    """Makes one run; returns what each rank found, None for one that died."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        children = []
        for rank in range(NUM_RANKS):
            child = os.fork()
            if child == 0:
                run_rank(program, correct, rank, folder, seeds)
                os._exit(0)  # no tear-down: a broken group would wait in it
            children.append(child)
        wait(children, DEADLINE_S + len(seeds))
        files = [Path(folder, f"rank{rank}") for rank in range(NUM_RANKS)]
        return [json.loads(file.read_text()) if file.exists() else None for file in files]


def wait(children: list[int], deadline_s: float) -> None:
    """Waits until all have ended; those that have not by the deadline are killed."""
    deadline = time.monotonic() + deadline_s
    for child in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)


def main() -> None:
    """Runs every planted program, wrong and right, and prints what was found."""
    import torch_npu  # noqa: F401

    num_runs, num_seeds = int(sys.argv[1]), int(sys.argv[2])
    for name, program in PROGRAMS.items():
        for correct, seeds in [(False, range(1))] * num_runs + [(True, range(1, num_seeds + 1))]:
            ranks = run_ranks(program, correct, seeds)
            print(json.dumps({"program": name, "correct": correct, "ranks": ranks}), flush=True)


if __name__ == "__main__":
    main()
