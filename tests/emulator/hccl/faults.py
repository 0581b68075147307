# SPDX-License-Identifier: Apache-2.0
"""Runs rank programs with a fault: ranks disagree, die, come late or do not wait. The test reads what they
print."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from tests.emulator.hccl.launch import process_group

LARGE = 1 << 25  # elements; moving them takes long enough to die in between


def _send(count: int, peer: int) -> None:
    work = dist.batch_isend_irecv([dist.P2POp(dist.isend, torch.ones(count, device="npu"), peer)])
    work[0].wait()


def _receive(count: int, peer: int, dtype: torch.dtype = torch.float32) -> None:
    operation = dist.P2POp(dist.irecv, torch.empty(count, dtype=dtype, device="npu"), peer)
    dist.batch_isend_irecv([operation])[0].wait()


def _all_reduce(count: int = 6, dtype: torch.dtype = torch.float32, operation: str = "SUM") -> None:
    dist.all_reduce(torch.ones(count, dtype=dtype, device="npu"), getattr(dist.ReduceOp, operation))


def _splits(*counts: int) -> None:
    given = list(counts)
    dist.all_to_all_single(torch.empty(4, device="npu"), torch.ones(sum(given), device="npu"), [2, 2], given)


# What ranks 0 and 1 do; the rest of a larger group does what rank 0 does.
DISAGREEMENTS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "operation": (_all_reduce, lambda: dist.broadcast(torch.ones(6, device="npu"), 0)),
    "count": (_all_reduce, lambda: _all_reduce(7)),
    "dtype": (_all_reduce, lambda: _all_reduce(dtype=torch.int32)),
    "reduction": (_all_reduce, lambda: _all_reduce(operation="MAX")),
    "root": (
        lambda: dist.broadcast(torch.ones(6, device="npu"), 0),
        lambda: dist.broadcast(torch.ones(6, device="npu"), 1),
    ),
    "splits": (lambda: _splits(2, 2), lambda: _splits(3, 1)),
    "message count": (lambda: _send(5, 1), lambda: _receive(6, 0)),
    "message type": (lambda: _send(5, 1), lambda: _receive(5, 0, torch.int32)),
    "message and collective": (lambda: _send(5, 1), _all_reduce),
    "two sends": (lambda: _send(5, 1), lambda: _send(5, 0)),
}


def _report(began: float, action: Callable[[], None]) -> None:
    """Runs the block; a fault must come to light in here, and the rank says when."""
    try:
        action()
        torch.npu.synchronize()
    except RuntimeError as error:
        print(f"raised after {time.monotonic() - began:.2f} s: {error}", flush=True)
        raise


def disagreement(rank: int, num_ranks: int, folder: str, kind: str) -> None:
    process_group(rank, num_ranks, folder)
    _all_reduce()
    torch.npu.synchronize()
    _report(time.monotonic(), DISAGREEMENTS[kind][1 if rank == 1 else 0])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def death_before(rank: int, num_ranks: int, folder: str) -> None:
    """Lets rank 1 die between two collectives."""
    process_group(rank, num_ranks, folder)
    _all_reduce()
    torch.npu.synchronize()
    if rank == 1:
        _die()
    _report(time.monotonic(), _all_reduce)


def death_within(rank: int, num_ranks: int, folder: str) -> None:
    """Lets rank 1 die while a collective moves data."""
    process_group(rank, num_ranks, folder)
    tensor = torch.zeros(LARGE, device="npu")
    dist.all_reduce(tensor[:6])
    torch.npu.synchronize()
    began = time.monotonic()
    if rank == 1:
        threading.Timer(0.05, _die).start()
    _report(began, lambda: [dist.all_reduce(tensor) for _ in range(50)])


def death_at_creation(rank: int, num_ranks: int, folder: str, victim: int) -> None:
    """Lets the victim die while it waits for the last rank, which then comes, too late."""
    process_group(rank, num_ranks, folder)
    began = time.monotonic()
    if rank == victim:
        threading.Timer(1, _die).start()
    if rank == num_ranks - 1:
        time.sleep(4)
        began = time.monotonic()
    _report(began, _all_reduce)


def late_at_creation(rank: int, num_ranks: int, folder: str, lateness_s: float) -> None:
    """Lets rank 1 come after the deadline, and hear the same as the others."""
    process_group(rank, num_ranks, folder)
    if rank == 1:
        time.sleep(lateness_s)
    try:
        _report(time.monotonic(), _all_reduce)
    finally:
        if rank != 1:
            time.sleep(lateness_s)  # the reason is in shared memory as long as the creator lives


def late(rank: int, num_ranks: int, folder: str, lateness_s: float) -> None:
    """Lets rank 1 come to a collective after the deadline; that call and later ones fail as well."""
    process_group(rank, num_ranks, folder)
    dist.broadcast(torch.ones(9, device="npu"), 0)
    torch.npu.synchronize()
    if rank == 1:
        time.sleep(lateness_s)
    _report(time.monotonic(), _all_reduce)


def race(rank: int, num_ranks: int, folder: str, waits: bool) -> None:
    """Reads the result of an asynchronous all_reduce with and without waiting for it."""
    from emulator import races

    process_group(rank, num_ranks, folder)
    _all_reduce()
    tensor = torch.ones(64, device="npu")
    torch.npu.synchronize()
    assert not races.reports()

    def read() -> float:
        work = dist.all_reduce(tensor, async_op=True)
        if waits:
            work.wait()
        result = tensor + 1
        work.wait()
        return float(result[0].cpu())

    if waits:
        assert read() == num_ranks + 1
        assert not races.reports()
    else:
        with races.expect("HcclAllReduce", r"aclnnAdds?\b", r"faults\.py"):
            read()
    dist.destroy_process_group()
