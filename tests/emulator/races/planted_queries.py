# SPDX-License-Identifier: Apache-2.0
"""Programs whose missing order is hidden when an allocator's own question counts as the program's; their twins.

Allocators ask whether a stream has come past a block's last use before they hand the block out again. The answer
tells the program nothing about other memory.
"""

from __future__ import annotations

import time

import torch

from tests.emulator.races.planted import SIZE, Planted, _full, _side_stream

COMPLETE_S = 0.02  # until the streams have certainly run what was issued, when nothing is delayed


def record_stream_elsewhere(correct: bool) -> bool:
    """Reads on a side stream what the main stream writes; only an unrelated block's events were waited for."""
    main, side = torch.npu.current_stream(), _side_stream()
    values = _full(1)
    with torch.npu.stream(side):
        unrelated = _full(0)
    torch.npu.synchronize()
    values.add_(1)
    unrelated.record_stream(main)
    del unrelated  # its event lies on the main stream, behind the addition
    time.sleep(COMPLETE_S)
    with torch.npu.stream(side):
        another = _full(0)  # the allocator asks for the event
    if correct:
        side.wait_stream(main)
    with torch.npu.stream(side):
        doubled = values * 2
    torch.npu.synchronize()
    return bool((doubled.cpu() == 4).all()) and another.numel() == SIZE


def pinned_block_elsewhere(correct: bool) -> bool:
    """Reads a result that no one waited for, after the pinned allocator has got another block back."""
    values, on_device = _full(3), _full(0)
    result = torch.zeros(SIZE, pin_memory=True)
    unrelated = torch.zeros(SIZE, pin_memory=True)
    torch.npu.synchronize()
    result.copy_(values, non_blocking=True)
    on_device.copy_(unrelated, non_blocking=True)
    del unrelated
    time.sleep(COMPLETE_S)
    another = torch.empty(SIZE, pin_memory=True)  # the allocator asks for the event
    if correct:
        torch.npu.current_stream().synchronize()
    right = bool((result == 3).all())
    torch.npu.synchronize()
    return right and another.numel() == SIZE


def device_block_elsewhere(correct: bool) -> bool:
    """Reads a result that no one waited for, after the device's allocator has got an unrelated block back."""
    main, side = torch.npu.current_stream(), _side_stream()
    values, result = _full(3), torch.zeros(SIZE, pin_memory=True)
    with torch.npu.stream(side):
        unrelated = _full(0)
    torch.npu.synchronize()
    result.copy_(values, non_blocking=True)
    unrelated.record_stream(main)
    del unrelated
    time.sleep(COMPLETE_S)
    with torch.npu.stream(side):
        another = _full(0)
    if correct:
        main.synchronize()
    right = bool((result == 3).all())
    torch.npu.synchronize()
    return right and another.numel() == SIZE


def pinned_blocks_are_reused(correct: bool) -> bool:
    """Fills one pinned batch after the other; a block comes again when its copy is complete."""
    totals = _full(0)
    kept = []  # a program that keeps a batch for later and forgets to wait before it fills it again
    for i in range(6):
        batch = torch.full((SIZE,), float(i), pin_memory=True)
        totals.add_(batch.to("npu", non_blocking=True))
        if not correct:
            batch.fill_(9)
            kept.append(batch)
        del batch
        time.sleep(COMPLETE_S / 4)
    return bool((totals.cpu() == 15).all())


def recorded_blocks_are_reused(correct: bool) -> bool:
    """Hands tensors to a side stream, which keeps them by record_stream, and makes new ones in their memory."""
    main, side = torch.npu.current_stream(), _side_stream()
    total = _full(0)
    torch.npu.synchronize()
    for i in range(6):
        step = _full(i)
        side.wait_stream(main)
        with torch.npu.stream(side):
            total.add_(step)
        if correct:
            step.record_stream(side)
        del step
        time.sleep(COMPLETE_S / 4)
    main.wait_stream(side)
    return bool((total.cpu() == 15).all())


QUERIES = [
    Planted(record_stream_elsewhere, ("does not wait for", "in record_stream_elsewhere", "wait_stream")),
    Planted(pinned_block_elsewhere, ("reads pinned memory before", "in pinned_block_elsewhere")),
    Planted(device_block_elsewhere, ("reads pinned memory before", "in device_block_elsewhere")),
    Planted(pinned_blocks_are_reused, ("overwrites pinned memory while", "in pinned_blocks_are_reused")),
    Planted(recorded_blocks_are_reused, ("handed out again", "in recorded_blocks_are_reused")),
]
