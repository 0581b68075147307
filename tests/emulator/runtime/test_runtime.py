# SPDX-License-Identifier: Apache-2.0
"""The emulated runtime through the real torch_npu: memory, copies, streams, events, host functions.

Only copies, so that nothing here depends on the emulated operators.
"""

from __future__ import annotations

import ctypes
import time

import pytest

from tests.emulator.races.device_work import (
    MIB,
    SIZE,
    HostGate,
    copy,
    filled,
    recent_message,
    run_program,
    runtime,
    value_of,
)

pytestmark = pytest.mark.emulator


@pytest.fixture(autouse=True)
def npu() -> None:
    """torch_npu, imported only where these tests run."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.synchronize()


def test_fresh_memory_is_poison() -> None:
    """In a process of its own: torch gives out again what an earlier test has left of a block that is in use."""
    program = f"""
assert torch.empty({SIZE}, device="npu").cpu().isnan().all()
assert torch.empty({SIZE}, dtype=torch.bfloat16, device="npu").cpu().isnan().all()
"""
    finished = run_program(program)
    assert finished.returncode == 0, finished.stderr


def test_memory_info_follows_allocations() -> None:
    import torch

    torch.npu.empty_cache()
    free, total = torch.npu.mem_get_info()
    held = torch.empty(64 * MIB, dtype=torch.uint8, device="npu")
    assert torch.npu.mem_get_info() == (free - torch.npu.memory_reserved(), total) or free < total
    assert torch.npu.mem_get_info()[0] <= free - held.nbytes
    del held
    torch.npu.empty_cache()
    assert torch.npu.mem_get_info() == (free, total)


def test_beyond_the_devices_memory_is_out_of_memory() -> None:
    import torch

    total = torch.npu.mem_get_info()[1]
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(total + MIB, dtype=torch.uint8, device="npu")
    assert value_of(filled(3)) == 3


@pytest.mark.parametrize("expandable", ["True", "False"])
def test_blocks_come_and_go(expandable: str) -> None:
    program = """
MIB = 1 << 20
blocks = [torch.full((MIB,), i).npu() for i in range(12)]
large = torch.full((24 * MIB,), 99).npu()
assert all((block.cpu() == i).all() for i, block in enumerate(blocks)) and (large.cpu() == 99).all()
del blocks[3:9]
again = torch.full((5 * MIB,), 7).npu()
assert (again.cpu() == 7).all() and (blocks[-1].cpu() == 11).all()
del blocks, large, again
torch.npu.empty_cache()
free, total = torch.npu.mem_get_info()
assert free == total and torch.npu.memory_reserved() == 0
"""
    setting = f"expandable_segments:{expandable}"
    finished = run_program(program, PYTORCH_NPU_ALLOC_CONF=setting, EMULATOR_MEMORY_MIB="512")
    assert finished.returncode == 0, finished.stderr


def test_a_copy_outside_live_memory_is_refused() -> None:
    held = filled(1)
    library = runtime()
    host = (ctypes.c_char * 64)()
    beyond = ctypes.c_void_p(held.data_ptr() + (1 << 40))
    assert library.aclrtMemcpy(host, ctypes.c_size_t(64), beyond, ctypes.c_size_t(64), 2) == 107000
    assert "is not in live device memory" in recent_message()


def test_pinned_memory_is_known_and_pageable_is_not() -> None:
    import torch

    pinned = torch.arange(8.0).pin_memory()
    assert pinned.is_pinned() and not torch.arange(8.0).is_pinned()
    on_device = pinned.to("npu", non_blocking=True)
    back = torch.empty(8).pin_memory()
    back.copy_(on_device, non_blocking=True)
    torch.npu.synchronize()
    assert back.tolist() == pinned.tolist()


def test_a_pageable_source_is_read_at_once() -> None:
    import torch

    source = torch.full((SIZE,), 5.0)
    target = source.to("npu", non_blocking=True)
    source.fill_(6)
    assert value_of(target) == 5


def test_copies_between_devices() -> None:
    import torch

    if torch.npu.device_count() < 2:
        pytest.skip("one device")
    there = filled(4).to("npu:1")
    assert there.device.index == 1 and value_of(there) == 4


def test_an_event_orders_streams() -> None:
    import torch

    side = torch.npu.Stream()
    source, between, target = filled(2), filled(0), filled(0)
    event = torch.npu.Event()
    with torch.npu.stream(side):
        side.wait_stream(torch.npu.default_stream())
        copy(between, source)
        event.record()
    event.wait()
    copy(target, between)
    assert value_of(target) == 2


def test_a_wait_is_for_the_recording_at_its_time() -> None:
    """A later recording of the same event must not hold up an earlier wait."""
    import torch

    side = torch.npu.Stream()
    event = torch.npu.Event()
    event.record()
    side.wait_event(event)
    hold = HostGate(torch.npu.current_stream())
    try:
        event.record()
        side.synchronize()
        assert side.query() and not event.query()
    finally:
        hold.open()
    event.synchronize()
    assert event.query()


def test_waits_outlive_their_event_and_stream() -> None:
    import torch

    side = torch.npu.Stream()
    hold = HostGate(torch.npu.current_stream())
    event = torch.npu.Event()
    event.record()
    side.wait_event(event)
    del event
    assert not side.query()
    hold.open()
    side.synchronize()


def test_an_event_never_recorded_is_complete() -> None:
    import torch

    event = torch.npu.Event()
    torch.npu.current_stream().wait_event(event)
    assert event.query()
    event.synchronize()


def test_elapsed_time() -> None:
    import torch

    begin, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    hold = HostGate(torch.npu.current_stream(), begin)
    time.sleep(0.02)
    hold.open()
    end.record()
    end.synchronize()
    assert begin.elapsed_time(end) >= 15


def test_a_busy_stream_times_out() -> None:
    import torch

    stream = torch.npu.Stream()
    hold = HostGate(stream)
    handle = ctypes.c_void_p(stream.npu_stream)
    assert runtime().aclrtSynchronizeStreamWithTimeout(handle, 20) == 107020
    hold.open()
    stream.synchronize()


def test_host_functions_run_in_order_on_the_subscribed_thread() -> None:
    import torch
    import torch_npu

    stream = torch.npu.Stream()
    seen: list[int] = []
    torch_npu.npu._subscribe_report(stream)
    for i in range(5):
        torch_npu.npu._launch_host_func(stream, seen.append, i)
    stream.synchronize()
    torch_npu.npu._unsubscribe_report(stream)
    assert seen == list(range(5))
