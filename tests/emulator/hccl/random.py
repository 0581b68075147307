# SPDX-License-Identifier: Apache-2.0
"""Draws random sequences of collectives over groups, streams, sizes and data types; every result is checked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from tests.emulator.hccl.launch import process_group
from tests.emulator.hccl.values import MOVED_TYPES, OPERATIONS, check, reduced, values

LONGEST = 8  # collectives in a sequence
REDUCIBLE = (torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32)
# checks the result once the works are waited for
Step = tuple[Callable[[], None], list[dist.Work]]


def given(work: dist.Work | None) -> list[dist.Work]:
    return [work] if work else []


class Sequence:
    """Draws one rank's part; all ranks draw the same numbers, whether they are in the group or not."""

    def __init__(self, rank: int, num_ranks: int, seed: int) -> None:
        self.rank = rank
        self.random = random.Random(seed)
        sizes = range(2, num_ranks)
        members = [sorted(self.random.sample(range(num_ranks), size)) for size in sizes]
        self.groups = [(list(range(num_ranks)), dist.group.WORLD)]
        self.groups += [(ranks, dist.new_group(ranks)) for ranks in members]
        self.streams = [torch.npu.current_stream(), torch.npu.Stream(), torch.npu.Stream()]
        self.steps = (
            self.all_reduce, self.broadcast, self.all_gather, self.reduce_scatter, self.all_to_all, self.messages,
        )  # fmt: skip

    def run(self) -> None:
        """Issues a sequence without looking at results, then checks them all."""
        pending = []
        for stream in self.streams:
            stream.wait_stream(torch.npu.current_stream())
        for _ in range(self.random.randint(1, LONGEST)):
            ranks, group = self.random.choice(self.groups)
            stream = self.random.choice(self.streams)
            step = self.random.choice(self.steps)
            seed, asynchronous = self.random.randrange(1 << 30), self.random.random() < 0.5
            size = self.random.choice((0, 1, self.random.randint(1, 100), self.random.randint(1, 40_000)))
            draws = random.Random(seed)
            if self.rank in ranks:
                with torch.npu.stream(stream):
                    expectation, works = step(ranks, group, size, draws, asynchronous)
                    pending.append((expectation, works, stream))
        for expectation, works, stream in pending:
            with torch.npu.stream(stream):
                for work in works:
                    work.wait()
                expectation()
        torch.npu.synchronize()

    def inputs(self, ranks: list[int], size: int, draws: random.Random, dtype: torch.dtype) -> list[Tensor]:
        seed = draws.randrange(1 << 20)
        return [values(seed, rank, size, dtype) for rank in ranks]

    def all_reduce(
        self, ranks: list[int], group: dist.ProcessGroup, size: int, draws: random.Random, asynchronous: bool
    ) -> Step:
        operation = draws.choice(list(OPERATIONS))
        parts = self.inputs(ranks, size, draws, draws.choice(REDUCIBLE))
        tensor = parts[ranks.index(self.rank)].npu()
        work = dist.all_reduce(tensor, operation, group, asynchronous)
        return lambda: check("all_reduce", tensor, reduced(parts, operation)), given(work)

    def broadcast(
        self, ranks: list[int], group: dist.ProcessGroup, size: int, draws: random.Random, asynchronous: bool
    ) -> Step:
        parts = self.inputs(ranks, size, draws, draws.choice(MOVED_TYPES))
        root = draws.randrange(len(ranks))
        tensor = parts[ranks.index(self.rank)].npu()
        work = dist.broadcast(tensor, ranks[root], group, asynchronous)
        return lambda: check("broadcast", tensor, parts[root]), given(work)

    def all_gather(
        self, ranks: list[int], group: dist.ProcessGroup, size: int, draws: random.Random, asynchronous: bool
    ) -> Step:
        parts = self.inputs(ranks, size, draws, draws.choice(MOVED_TYPES))
        output = torch.empty(size * len(ranks), dtype=parts[0].dtype, device="npu")
        source = parts[ranks.index(self.rank)].npu()
        work = dist.all_gather_into_tensor(output, source, group, asynchronous)
        return lambda: check("all_gather", output, torch.cat(parts)), given(work)

    def reduce_scatter(
        self, ranks: list[int], group: dist.ProcessGroup, size: int, draws: random.Random, asynchronous: bool
    ) -> Step:
        parts = self.inputs(ranks, size * len(ranks), draws, draws.choice(REDUCIBLE))
        own = ranks.index(self.rank)
        output = torch.empty(size, dtype=parts[0].dtype, device="npu")
        work = dist.reduce_scatter_tensor(output, parts[own].npu(), dist.ReduceOp.SUM, group, asynchronous)
        expected = reduced(parts, dist.ReduceOp.SUM)[own * size : (own + 1) * size]
        return lambda: check("reduce_scatter", output, expected), given(work)

    def all_to_all(
        self, ranks: list[int], group: dist.ProcessGroup, size: int, draws: random.Random, asynchronous: bool
    ) -> Step:
        counts = [[draws.randint(0, size // len(ranks)) for _ in ranks] for _ in ranks]
        dtype = draws.choice(MOVED_TYPES)
        parts = [values(size, rank, sum(row), dtype).split(row) for rank, row in zip(ranks, counts, strict=True)]
        own = ranks.index(self.rank)
        received = [row[own] for row in counts]
        output = torch.empty(sum(received), dtype=dtype, device="npu")
        source = torch.cat(parts[own]).npu()
        work = dist.all_to_all_single(output, source, received, counts[own], group, asynchronous)
        expected = torch.cat([part[own] for part in parts])
        return lambda: check("all_to_all", output, expected), given(work)

    def messages(
        self, ranks: list[int], group: dist.ProcessGroup, size: int, draws: random.Random, asynchronous: bool
    ) -> Step:
        """Sends from everybody to everybody in a batch, in an order of each rank's own."""
        size = max(size, 1)
        parts = self.inputs(ranks, size, draws, draws.choice(MOVED_TYPES))
        source = parts[ranks.index(self.rank)].npu()
        outputs = {rank: torch.empty_like(source) for rank in ranks if rank != self.rank}
        operations = [dist.P2POp(dist.isend, source, rank, group) for rank in outputs]
        operations += [dist.P2POp(dist.irecv, output, rank, group) for rank, output in outputs.items()]
        random.Random(self.rank * size).shuffle(operations)
        works = dist.batch_isend_irecv(operations)

        def expectation() -> None:
            for rank, output in outputs.items():
                check("messages", output, parts[ranks.index(rank)])

        return expectation, works


def sequences(rank: int, num_ranks: int, folder: str, seed: int, count: int) -> None:
    """Runs ``count`` sequences; prints how long they took."""
    process_group(rank, num_ranks, folder)
    sequence = Sequence(rank, num_ranks, seed)
    began = time.monotonic()
    for index in range(count):
        try:
            sequence.run()
        except Exception as error:
            raise AssertionError(f"sequence {index} of seed {seed}, rank {rank} of {num_ranks}") from error
    print(f"{count} sequences in {time.monotonic() - began:.1f} s")
    dist.destroy_process_group()
