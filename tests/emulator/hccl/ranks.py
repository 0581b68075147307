# SPDX-License-Identifier: Apache-2.0
"""Runs rank programs in which every collective must give what one process computes."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tests.emulator.hccl.launch import process_group
from tests.emulator.hccl.values import MOVED_TYPES, OPERATIONS, REDUCED_TYPES, check, reduced, values

SIZES = (1, 7, 70_000)  # the last one takes several rounds


class Cases:
    """Collectives of one group, data type and size against a single-process reference."""

    def __init__(self, rank: int, num_ranks: int, size: int, dtype: torch.dtype) -> None:
        self.rank, self.num_ranks, self.size, self.dtype = rank, num_ranks, size, dtype
        self.seed = size

    def inputs(self, size: int | None = None) -> list[Tensor]:
        self.seed += 1
        return [values(self.seed, rank, size or self.size, self.dtype) for rank in range(self.num_ranks)]

    def empty(self, size: int) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device="npu")

    def all_reduce(self) -> None:
        for operation in OPERATIONS:
            parts = self.inputs()
            tensor = parts[self.rank].npu()
            dist.all_reduce(tensor, operation)
            check(f"all_reduce {operation}", tensor, reduced(parts, operation))

    def reduce(self) -> None:
        parts = self.inputs()
        root = self.num_ranks - 1
        tensor = parts[self.rank].npu()
        dist.reduce(tensor, root)
        if self.rank == root:
            check("reduce", tensor, reduced(parts, dist.ReduceOp.SUM))

    def reduce_scatter(self) -> None:
        if self.dtype in (torch.uint8, torch.bool):
            return  # torch_npu refuses them here
        parts = self.inputs(self.size * self.num_ranks)
        whole = reduced(parts, dist.ReduceOp.SUM)
        expected = whole[self.rank * self.size : (self.rank + 1) * self.size]
        output = self.empty(self.size)
        dist.reduce_scatter_tensor(output, parts[self.rank].npu())
        check("reduce_scatter_tensor", output, expected)
        output = self.empty(self.size)
        dist.reduce_scatter(output, list(parts[self.rank].npu().chunk(self.num_ranks)))
        check("reduce_scatter", output, expected)

    def broadcast(self) -> None:
        parts = self.inputs()
        for root in range(self.num_ranks):
            tensor = parts[self.rank].npu()
            dist.broadcast(tensor, root)
            check("broadcast", tensor, parts[root])

    def all_gather(self) -> None:
        parts = self.inputs()
        output = self.empty(self.size * self.num_ranks)
        dist.all_gather_into_tensor(output, parts[self.rank].npu())
        check("all_gather_into_tensor", output, torch.cat(parts))
        outputs = [self.empty(self.size) for _ in parts]
        dist.all_gather(outputs, parts[self.rank].npu())
        check("all_gather", torch.cat([output.cpu() for output in outputs]), torch.cat(parts))

    def all_gather_uneven(self) -> None:
        parts = [values(self.size, rank, self.size + rank, self.dtype) for rank in range(self.num_ranks)]
        outputs = [self.empty(part.numel()) for part in parts]
        dist.all_gather(outputs, parts[self.rank].npu())
        check("uneven all_gather", torch.cat([output.cpu() for output in outputs]), torch.cat(parts))

    def reduce_scatter_uneven(self) -> None:
        """Reduces uneven parts: rank k's part has size + k elements."""
        if self.dtype in (torch.uint8, torch.bool):
            return
        counts = [self.size + k for k in range(self.num_ranks)]
        parts = self.inputs(sum(counts))
        output = self.empty(counts[self.rank])
        dist.reduce_scatter(output, list(parts[self.rank].npu().split(counts)))
        expected = reduced(parts, dist.ReduceOp.SUM).split(counts)[self.rank]
        check("uneven reduce_scatter", output, expected)

    def scatter(self) -> None:
        parts = self.inputs()
        output = self.empty(self.size)
        inputs = [part.npu() for part in parts] if self.rank == 0 else None
        dist.scatter(output, inputs, src=0)
        check("scatter", output, parts[self.rank])

    def all_to_all(self) -> None:
        parts = [part.view(self.num_ranks, -1) for part in self.inputs(self.size * self.num_ranks)]
        output = self.empty(self.size * self.num_ranks)
        dist.all_to_all_single(output, parts[self.rank].flatten().npu())
        expected = [part[self.rank] for part in parts]
        check("all_to_all_single", output, torch.cat(expected))
        outputs = [self.empty(self.size) for _ in parts]
        dist.all_to_all(outputs, list(parts[self.rank].npu()))
        check("all_to_all", torch.cat([output.cpu() for output in outputs]), torch.cat(expected))

    def all_to_all_uneven(self) -> None:
        """Sends (i + k) % 3 * size elements from rank i to rank k, so some send nothing."""
        counts = [[(i + k) % 3 * self.size for k in range(self.num_ranks)] for i in range(self.num_ranks)]
        parts = [values(self.size, i, sum(counts[i]), self.dtype) for i in range(self.num_ranks)]
        splits = [part.split(count) for part, count in zip(parts, counts, strict=True)]
        received = [row[self.rank] for row in counts]
        output = self.empty(sum(received))
        dist.all_to_all_single(output, parts[self.rank].npu(), received, counts[self.rank])
        check("uneven all_to_all_single", output, torch.cat([split[self.rank] for split in splits]))

    def messages(self) -> None:
        """Sends in a ring with send and recv, then between all pairs at once, listed in another order on each
        rank."""
        parts = self.inputs()
        after, before = (self.rank + 1) % self.num_ranks, (self.rank - 1) % self.num_ranks
        output = self.empty(self.size)
        steps = [lambda: dist.send(parts[self.rank].npu(), after), lambda: dist.recv(output, before)]
        for step in steps if self.rank % 2 == 0 else reversed(steps):
            step()
        check("recv", output, parts[before])
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        outputs = {rank: self.empty(self.size) for rank in others}
        own = parts[self.rank].npu()
        operations = [dist.P2POp(dist.isend, own, rank) for rank in others]
        operations += [dist.P2POp(dist.irecv, outputs[rank], rank) for rank in others]
        operations = operations[self.rank :] + operations[: self.rank]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        for rank in others:
            check("batch_isend_irecv", outputs[rank], parts[rank])


REDUCING = (Cases.all_reduce, Cases.reduce, Cases.reduce_scatter, Cases.reduce_scatter_uneven)
MOVING = (
    Cases.broadcast, Cases.all_gather, Cases.all_gather_uneven, Cases.scatter, Cases.all_to_all,
    Cases.all_to_all_uneven, Cases.messages,
)  # fmt: skip


def collectives(rank: int, num_ranks: int, folder: str) -> None:
    """Runs every collective with every data type and size."""
    process_group(rank, num_ranks, folder)
    for size in SIZES:
        for dtype in MOVED_TYPES:
            cases = Cases(rank, num_ranks, size, dtype)
            for case in (*(REDUCING if dtype in REDUCED_TYPES else ()), *MOVING):
                try:
                    case(cases)
                except Exception as error:
                    raise AssertionError(f"{case.__name__} of {size} x {dtype}") from error
    dist.destroy_process_group()


def groups(rank: int, num_ranks: int, folder: str) -> None:
    """Subgroups, objects, barriers, coalescing, averages, and a second life of the default group."""
    for life in ("first", "second"):
        process_group(rank, num_ranks, folder, life)
        _subgroups(rank, num_ranks)
        _coalesced(rank, num_ranks)
        objects: list[object] = [None] * num_ranks
        dist.all_gather_object(objects, {"rank": rank, "text": "x" * rank})
        assert objects == [{"rank": i, "text": "x" * i} for i in range(num_ranks)]
        shared = [f"from {rank}", rank]
        dist.broadcast_object_list(shared, src=num_ranks - 1)
        assert shared == [f"from {num_ranks - 1}", num_ranks - 1]
        tensor = torch.full((5,), float(rank), device="npu")
        dist.all_reduce(tensor, dist.ReduceOp.AVG)
        check("average", tensor, torch.full((5,), (num_ranks - 1) / 2))
        dist.all_reduce(torch.empty(0, device="npu"))
        dist.barrier()
        dist.destroy_process_group()


def _subgroups(rank: int, num_ranks: int) -> None:
    """Runs all pairs of neighbours and the ranks in reverse, several communicators under way at once."""
    members = [[i, (i + 1) % num_ranks] for i in range(num_ranks)] + [list(range(num_ranks))]
    made = [dist.new_group(sorted(ranks), timeout=timedelta(seconds=60)) for ranks in members]
    tensors = [torch.full((1000 + i,), float(rank + i), device="npu") for i in range(len(made))]
    works = [
        dist.all_reduce(tensor, group=group, async_op=True)
        for ranks, group, tensor in zip(members, made, tensors, strict=True)
        if rank in ranks
    ]
    for work in works:
        work.wait()
    for i, (ranks, tensor) in enumerate(zip(members, tensors, strict=True)):
        members_of = set(ranks) if rank in ranks else {rank}
        check("subgroup", tensor, torch.full((1000 + i,), float(sum(other + i for other in members_of))))
    for ranks, group in zip(members, made, strict=True):
        if rank in ranks:
            dist.destroy_process_group(group)


def _coalesced(rank: int, num_ranks: int) -> None:
    """Runs several collectives as one, and messages between start and end of a group."""
    tensors = [torch.full((10 + i,), float(rank + i), device="npu") for i in range(4)]
    with dist._coalescing_manager(device=torch.device("npu", rank), async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor)
    manager.wait()
    for i, tensor in enumerate(tensors):
        check("coalesced", tensor, torch.full((10 + i,), float(sum(other + i for other in range(num_ranks)))))
    outputs = [torch.empty(num_ranks * 3, device="npu") for _ in range(2)]
    with dist._coalescing_manager(device=torch.device("npu", rank)):
        for i, output in enumerate(outputs):
            dist.all_gather_into_tensor(output, torch.full((3,), float(rank + i), device="npu"))
    for i, output in enumerate(outputs):
        check("coalesced gather", output, torch.arange(num_ranks).repeat_interleave(3).float() + i)
