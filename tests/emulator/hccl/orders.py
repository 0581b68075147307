# SPDX-License-Identifier: Apache-2.0
"""Runs rank programs that launch collectives of two groups, in one order or in different ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from tests.emulator.hccl.launch import process_group

SIZE = 64
NUM_STEPS = 20


def _groups(rank: int, num_ranks: int, folder: str, count: int = 2) -> list[dist.ProcessGroup]:
    """Returns groups of all ranks, whose communicators are there."""
    process_group(rank, num_ranks, folder)
    groups = [dist.new_group(backend="hccl") for _ in range(count)]
    for group in groups:
        dist.all_reduce(torch.ones(1, device="npu"), group=group)
    torch.npu.synchronize()
    return groups


def _tell(num_ranks: int) -> None:
    """Prints this rank's reports, and leaves with its own status."""
    from emulator import races

    torch.npu.synchronize()
    found = races.reports()
    races.clear()
    print(f"{len(found)} reports")
    print("\n".join(found), flush=True)
    dist.destroy_process_group()


def _begin(groups: Sequence[dist.ProcessGroup]) -> list[Callable[[], object]]:
    """Begins an all-reduce of each group in turn; returns their waits."""
    tensors = [torch.ones(SIZE, device="npu") for _ in groups]
    torch.npu.synchronize()
    works = [dist.all_reduce(x, group=group, async_op=True) for x, group in zip(tensors, groups, strict=True)]
    return [work.wait for work in works if work is not None]


def asynchronous(rank: int, num_ranks: int, folder: str, differs: bool) -> None:
    """Begins one all-reduce of each of two groups; the last rank the other way round where it differs."""
    groups = _groups(rank, num_ranks, folder)
    for wait in _begin(groups[::-1] if differs and rank == num_ranks - 1 else groups):
        wait()
    _tell(num_ranks)


def captured(rank: int, num_ranks: int, folder: str, differs: bool) -> None:
    """Replays graphs of either group, the last rank the other way round where it differs."""
    groups = _groups(rank, num_ranks, folder)
    graphs, tensors = [], [torch.ones(SIZE, device="npu") for _ in groups]
    for x, group in zip(tensors, groups, strict=True):
        graphs.append(torch.npu.NPUGraph())
        with torch.npu.graph(graphs[-1]):
            dist.all_reduce(x, group=group)
    torch.npu.synchronize()
    sides = [torch.npu.Stream() for _ in groups]
    order = [1, 0] if differs and rank == num_ranks - 1 else [0, 1]
    for index in order:
        with torch.npu.stream(sides[index]):
            graphs[index].replay()
    _tell(num_ranks)


def blocking(rank: int, num_ranks: int, folder: str) -> None:
    """Has ranks wait for each other: each group's all-reduce is waited for before the other's is launched."""
    groups = _groups(rank, num_ranks, folder)
    for group in groups[::-1] if rank == num_ranks - 1 else groups:
        dist.all_reduce(torch.ones(SIZE, device="npu"), group=group)
    torch.npu.synchronize()


def right(rank: int, num_ranks: int, folder: str) -> None:
    """Launches on many groups in one order, with messages in any: none of it may be reported."""
    world, other = _groups(rank, num_ranks, folder)
    # every rank is in some that another is not in
    pairs = [dist.new_group([first, (first + 1) % num_ranks], backend="hccl") for first in range(num_ranks)]
    own = [pair for first, pair in enumerate(pairs) if rank in (first, (first + 1) % num_ranks)]
    late: list[dist.ProcessGroup] = []
    for step in range(NUM_STEPS):
        waits = _begin([*own, world, other, *late])
        if rank == step % num_ranks:  # a message counts as no collective of its group
            dist.send(torch.ones(SIZE, device="npu"), (rank + 1) % num_ranks, group=world)
        elif rank == (step + 1) % num_ranks:
            dist.recv(torch.ones(SIZE, device="npu"), (rank - 1) % num_ranks, group=world)
        for wait in waits:
            wait()
        if step == NUM_STEPS // 2:
            late.append(dist.new_group(backend="hccl"))
    _tell(num_ranks)


def far_ahead(rank: int, num_ranks: int, folder: str) -> None:
    """Launches more collectives than are kept for other ranks, then the next in a different order."""
    groups = _groups(rank, num_ranks, folder)
    x = torch.ones(SIZE, device="npu")
    for _ in range(600):
        dist.all_reduce(x, group=groups[0])
    torch.npu.synchronize()
    for wait in _begin(groups[::-1] if rank else groups):
        wait()
    _tell(num_ranks)
