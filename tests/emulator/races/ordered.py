# SPDX-License-Identifier: Apache-2.0
"""Programs without a race that a careless checker would report. Each returns whether its result is right."""

from __future__ import annotations

from collections.abc import Callable

import torch

SIZE = 4096


def _full(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape or (SIZE,), value, dtype=torch.float32, device="npu")


def reuse_on_one_stream() -> bool:
    """Uses a stream's own freed memory again at once, which is allowed."""
    total = _full(0)
    for _ in range(8):
        step = _full(1)
        total.add_(step)
        del step
    return bool((total.cpu() == 8).all())


def record_stream_done_right() -> bool:
    main, side = torch.npu.current_stream(), torch.npu.Stream()
    results = []
    for i in range(4):
        values = _full(i)
        side.wait_stream(main)
        with torch.npu.stream(side):
            results.append(values + 1)
        values.record_stream(side)
        del values
    main.wait_stream(side)
    return all(bool((result.cpu() == i + 1).all()) for i, result in enumerate(results))


def event_chain_over_three_streams() -> bool:
    """Waits on the last stream only for the one before it, and that is enough."""
    streams = [torch.npu.Stream() for _ in range(3)]
    values = _full(1)
    torch.npu.synchronize()
    event = None
    for stream in streams:
        if event is not None:
            stream.wait_event(event)
        with torch.npu.stream(stream):
            values.mul_(2).add_(1)
        event = torch.npu.Event()
        event.record(stream)
    torch.npu.current_stream().wait_event(event)
    return bool((values.cpu() == 15).all())


def synchronise_then_reuse() -> bool:
    """Synchronises: what the host has waited for is over for every stream."""
    side = torch.npu.Stream()
    values = _full(1)
    torch.npu.synchronize()
    with torch.npu.stream(side):
        values.add_(1)
    side.synchronize()
    values.mul_(3)
    event = torch.npu.Event()
    event.record()
    while not event.query():
        pass
    with torch.npu.stream(side):
        values.add_(1)
    side.synchronize()
    return bool((values.cpu() == 7).all())


def disjoint_rows_and_columns() -> bool:
    """Writes parts of one tensor on two streams that do not overlap, though as columns they interleave."""
    main, side = torch.npu.current_stream(), torch.npu.Stream()
    table = _full(0, 64, 64)
    torch.npu.synchronize()
    table[:32].fill_(1)
    with torch.npu.stream(side):
        table[32:].fill_(2)
    torch.npu.synchronize()
    table[:, :8].add_(1)
    with torch.npu.stream(side):
        table[:, 8:].add_(2)
    main.wait_stream(side)
    host = table.cpu()
    return host[0, 0] == 2 and host[0, 8] == 3 and host[32, 7] == 3 and bool(host[63, 63] == 4)


def parallel_reads() -> bool:
    main, sides = torch.npu.current_stream(), [torch.npu.Stream() for _ in range(3)]
    values = _full(5)
    results = []
    for side in sides:
        side.wait_stream(main)
        with torch.npu.stream(side):
            results.append(values + 1)
    own = values + 2
    torch.npu.synchronize()
    return all(bool((result.cpu() == 6).all()) for result in results) and bool((own.cpu() == 7).all())


def graph_replays() -> bool:
    """Replays a graph with a side stream, its input written between replays on the same stream."""
    side = torch.npu.Stream()
    source, target = _full(1), _full(0)
    torch.npu.synchronize()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        main = torch.npu.current_stream()
        doubled = source * 2
        side.wait_stream(main)
        with torch.npu.stream(side):
            target.add_(doubled)
        main.wait_stream(side)
    for value in (1, 2, 3):
        source.fill_(value)
        graph.replay()
    return bool((target.cpu() == 12).all())


def pinned_round_trips() -> bool:
    """Halves of one pinned buffer: the host works on one while a copy uses the other."""
    buffer = torch.zeros(2, SIZE, pin_memory=True)
    values = _full(0)
    right = True
    copied: list[torch.npu.Event | None] = [None, None]
    for i in range(6):
        half = buffer[i % 2]
        if event := copied[i % 2]:
            event.synchronize()
        half.fill_(i)
        values.copy_(half, non_blocking=True)
        copied[i % 2] = torch.npu.Event()
        copied[i % 2].record()
        right &= bool((half == i).all())  # reading beside a copy that reads, too
    return right and bool((values.cpu() == 5).all())


def pinned_neighbours() -> bool:
    """Uses bytes on the host of the page that a copy is writing, but not the copy's bytes."""
    buffer = torch.zeros(64, pin_memory=True)
    values = _full(7, 16)
    buffer[16:32].copy_(values, non_blocking=True)
    buffer[:16].fill_(1)
    buffer[32:].fill_(2)
    beside = buffer[:16].sum() + buffer[32:].sum()
    torch.npu.current_stream().synchronize()
    return bool(beside == 16 + 64) and bool((buffer[16:32] == 7).all())


PROGRAMS: list[Callable[[], bool]] = [
    reuse_on_one_stream,
    record_stream_done_right,
    event_chain_over_three_streams,
    synchronise_then_reuse,
    disjoint_rows_and_columns,
    parallel_reads,
    graph_replays,
    pinned_round_trips,
    pinned_neighbours,
]
