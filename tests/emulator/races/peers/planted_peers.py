# SPDX-License-Identifier: Apache-2.0
"""Programs in which a peer orders a rank's own work: by what it waited for before it answered, or did not."""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist

SIZE = 8


@functools.cache
def _groups() -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Returns two groups of both ranks, each of which has streams of its own."""
    first, second = dist.new_group([0, 1]), dist.new_group([0, 1])
    assert first is not None and second is not None
    return first, second


def _full(value: float) -> torch.Tensor:
    return torch.full((SIZE,), value, device="npu")


def answered_message(correct: bool, rank: int) -> bool:
    """Writes what was sent once the peer has answered, which it does when it has received, or before."""
    first, second = _groups()
    values, token = _full(3 if rank == 0 else 0), _full(0)
    torch.npu.synchronize()
    if rank == 0:
        sent = dist.isend(values, 1, group=first)
        dist.recv(token, 1, group=second)
        values.add_(1)
        assert sent is not None
        sent.wait()
        return bool((values.cpu() == 4).all())
    received = dist.irecv(values, 0, group=first)
    assert received is not None
    if correct:
        received.wait()
    dist.send(token, 0, group=second)
    received.wait()
    return bool((values.cpu() == 3).all())


def answered_collective(correct: bool, rank: int) -> bool:
    """Writes what a side stream read ahead of a collective, once the peer has answered behind it, or beside it."""
    first, second = _groups()
    side = _side_stream()
    values, sums, token = _full(3), _full(rank), _full(0)
    torch.npu.synchronize()
    with torch.npu.stream(side):
        doubled = values * 2
        work = dist.all_reduce(sums, group=first, async_op=True)
    assert work is not None
    if rank == 0:
        dist.recv(token, 1, group=second)
        values.add_(1)
    else:
        if correct:
            work.wait()
        dist.send(token, 0, group=second)
    work.wait()
    torch.npu.current_stream().wait_stream(side)
    doubled.record_stream(torch.npu.current_stream())
    return bool((doubled.cpu() == 6).all()) and bool((sums.cpu() == 1).all())


def answered_to_the_root(correct: bool, rank: int) -> bool:
    """Writes beside a broadcast what its root read ahead of it: the root hears nothing from the others by that."""
    first, second = _groups()
    side = _side_stream()
    values, shared, token = _full(3), _full(rank), _full(0)
    torch.npu.synchronize()
    with torch.npu.stream(side):
        doubled = values * 2
        dist.all_reduce(token, group=second)
    if rank == 1:
        torch.npu.current_stream().wait_stream(side)
    dist.broadcast(shared, 1 if correct else 0, group=first)
    if rank == 0:
        values.add_(1)
    torch.npu.current_stream().wait_stream(side)
    doubled.record_stream(torch.npu.current_stream())
    return bool((doubled.cpu() == 6).all())


@functools.cache
def _side_stream() -> torch.npu.Stream:
    return torch.npu.Stream()


PEERS = (answered_message, answered_collective, answered_to_the_root)
