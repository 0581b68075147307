# SPDX-License-Identifier: Apache-2.0
"""The emulated runtime through the real torch_npu: memory, streams, events, host functions, graphs, failures.

Only copies, so that nothing here depends on the emulated operators.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from emulator.findings import Findings

pytestmark = pytest.mark.emulator

SIZE = 1024
MIB = 1 << 20


@pytest.fixture(autouse=True)
def npu() -> None:
    """torch_npu, imported only where these tests run."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.synchronize()


def filled(value: float) -> torch.Tensor:
    import torch

    return torch.full((SIZE,), value).to("npu")


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """On the current stream, from device to device."""
    import torch_npu

    torch_npu.copy_memory_(target, source, non_blocking=True)


def value_of(tensor: torch.Tensor) -> float:
    values = tensor.cpu().unique().tolist()
    assert len(values) == 1
    return float(values[0])


def run_program(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what a process cannot recover from."""
    preface = "import torch, torch_npu\n"
    environment = {**os.environ, "EMULATOR_RACE_LOG": "", **variables}
    command = [sys.executable, "-c", preface + program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def runtime() -> ctypes.CDLL:
    return ctypes.CDLL("libascendcl.so")


# Memory


def test_fresh_memory_is_poison() -> None:
    import torch

    torch.npu.empty_cache()
    assert torch.empty(SIZE, device="npu").cpu().isnan().all()
    assert torch.empty(SIZE, dtype=torch.bfloat16, device="npu").cpu().isnan().all()


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
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    host = (ctypes.c_char * 64)()
    beyond = ctypes.c_void_p(held.data_ptr() + (1 << 40))
    assert library.aclrtMemcpy(host, ctypes.c_size_t(64), beyond, ctypes.c_size_t(64), 2) == 107000
    assert b"is not in live device memory" in library.aclGetRecentErrMsg()


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


# Streams and events


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


class HostGate:
    """Holds a stream in a host function until it is opened."""

    def __init__(self, stream: torch.npu.Stream, before: torch.npu.Event | None = None) -> None:
        if before is not None:
            before.record(stream)
        self._open = ctypes.c_int(0)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._wait)
        handle = ctypes.c_void_p(stream.npu_stream)
        assert runtime().aclrtLaunchHostFunc(handle, self._function, None) == 0

    def _wait(self, _: object) -> None:
        deadline = time.monotonic() + 20
        while not self._open.value and time.monotonic() < deadline:
            time.sleep(0.001)

    def open(self) -> None:
        self._open.value = 1


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


# Graphs


def captured(body: Callable[[], None]) -> torch.npu.NPUGraph:
    import torch

    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        body()
    return graph


def replay_from(graph: torch.npu.NPUGraph, source: torch.Tensor, value: float) -> None:
    import torch

    source.copy_(torch.full((SIZE,), value))
    graph.replay()


def test_a_graph_replays_on_new_inputs() -> None:
    source, between, target = filled(1), filled(0), filled(0)

    def body() -> None:
        copy(between, source)
        copy(target, between)

    graph = captured(body)
    assert value_of(target) == 0  # capturing runs nothing
    for value in (3, 4):
        replay_from(graph, source, value)
        assert value_of(target) == value


def test_a_joined_side_stream_is_captured() -> None:
    import torch

    side = torch.npu.Stream()
    source, between, target, beside = filled(1), filled(0), filled(0), filled(0)

    def body() -> None:
        main = torch.npu.current_stream()
        copy(between, source)
        side.wait_stream(main)
        with torch.npu.stream(side):
            copy(beside, between)
        copy(target, between)
        main.wait_stream(side)

    graph = captured(body)
    for value in (5, 6):
        replay_from(graph, source, value)
        assert value_of(target) == value and value_of(beside) == value


def test_an_unjoined_side_stream_is_reported(race_reports: Findings) -> None:
    import torch

    side = torch.npu.Stream()
    source, target = filled(1), filled(0)

    def body() -> None:
        side.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(side):
            copy(target, source)

    with pytest.raises(RuntimeError, match=r"ended without waiting for\s+stream \d+ of npu:0"):
        captured(body)
    (report,) = race_reports.take()
    assert "copy device to device" in report and "test_runtime.py" in report
    assert value_of(target) == 0


def test_a_captured_stream_cannot_be_waited_for() -> None:
    import torch

    source, target = filled(1), filled(0)

    def body() -> None:
        copy(target, source)
        with pytest.raises(RuntimeError, match="is being captured"):
            torch.npu.current_stream().synchronize()

    with pytest.raises(RuntimeError, match="was spoilt by synchronising the stream"):
        captured(body)
    assert value_of(filled(2)) == 2


def test_a_graph_is_described_in_a_file(tmp_path: Path) -> None:
    source, target = filled(1), filled(0)
    graph = captured(lambda: copy(target, source))
    graph.debug_dump(str(tmp_path / "graph.txt"))
    assert "0: copy device to device after []" in (tmp_path / "graph.txt").read_text()


def test_a_task_group_is_updated_between_replays() -> None:
    """As vllm-ascend does: the replay waits for an external event until another stream has updated it."""
    import torch

    first, second, target = filled(1), filled(2), filled(0)
    update_stream = torch.npu.Stream()
    event = torch.npu.ExternalEvent()
    handles = []

    def body() -> None:
        stream = torch.npu.current_stream()
        event.wait(stream)
        event.reset(stream)
        torch.npu.graph_task_group_begin(stream)
        copy(target, first)
        handles.append(torch.npu.graph_task_group_end(stream))

    graph = captured(body)
    for source, value in ((second, 2), (first, 1), (second, 2)):
        graph.replay()
        with torch.npu.stream(update_stream):
            torch.npu.graph_task_update_begin(update_stream, handles[0])
            copy(target, source)
            torch.npu.graph_task_update_end(update_stream)
            event.record(update_stream)
        assert value_of(target) == value


def test_a_wrong_number_of_updated_tasks_is_an_error() -> None:
    import torch

    source, target = filled(1), filled(0)
    handles = []

    def body() -> None:
        stream = torch.npu.current_stream()
        torch.npu.graph_task_group_begin(stream)
        copy(target, source)
        handles.append(torch.npu.graph_task_group_end(stream))

    graph = captured(body)
    stream = torch.npu.Stream()
    torch.npu.graph_task_update_begin(stream, handles[0])
    with pytest.raises(RuntimeError, match="the group has 1 tasks, the update 0"):
        torch.npu.graph_task_update_end(stream)
    del graph


# Failures

FAILING = """
stream = torch.npu.current_stream()
held = torch.ones(4).npu()
torch.npu.synchronize()
torch_npu.npu._launch_host_func(stream, print, 1)  # nobody is subscribed
"""
FAILURE = "asynchronous failure: host function on stream"


def test_an_asynchronous_failure_stays() -> None:
    program = (
        FAILING
        + """
for call in (torch.npu.synchronize, lambda: torch.ones(4).npu(), lambda: torch.npu.current_stream().query()):
    try:
        call()
    except RuntimeError as error:
        assert "no thread processes the reports" in str(error), error
    else:
        raise AssertionError("no error")
print("reached the end")
"""
    )
    finished = run_program(program, TASK_QUEUE_ENABLE="0")
    assert finished.stderr.count(FAILURE) >= 1 and "reached the end" in finished.stdout
    assert finished.returncode == 70, finished.stderr


def test_a_failure_that_nobody_looked_at_is_not_success() -> None:
    finished = run_program(FAILING, TASK_QUEUE_ENABLE="0")
    assert FAILURE in finished.stderr
    assert finished.returncode == 70, finished.stderr


@pytest.mark.parametrize("queue", ["1", "2"])
def test_a_failure_under_the_task_queue_ends_the_process(queue: str) -> None:
    finished = run_program(FAILING + "torch.npu.synchronize()\nprint('went on')\n", TASK_QUEUE_ENABLE=queue)
    assert FAILURE in finished.stderr and "went on" not in finished.stdout
    assert finished.returncode == 70, finished.stderr


@pytest.mark.parametrize("queue", ["0", "1", "2"])
def test_streams_and_copies_under_every_task_queue(queue: str) -> None:
    program = """
side = torch.npu.Stream()
source, target = torch.full((64,), 3.0).npu(), torch.zeros(64).npu()
side.wait_stream(torch.npu.current_stream())
with torch.npu.stream(side):
    torch_npu.copy_memory_(target, source, non_blocking=True)
torch.npu.current_stream().wait_stream(side)
assert (target.cpu() == 3).all()
"""
    finished = run_program(program, TASK_QUEUE_ENABLE=queue)
    assert finished.returncode == 0, finished.stderr


def test_a_missing_operator_of_the_old_interface_is_named() -> None:
    library = runtime()
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    nothing = [None] * 6
    code = library.aclopCompileAndExecute(b"Conv2D", 0, *nothing[:2], 0, *nothing[:2], None, 0, 0, None, None)
    assert code == 207000
    assert b"not emulated: operator Conv2D" in library.aclGetRecentErrMsg()


def test_a_setting_that_does_not_parse_is_fatal() -> None:
    finished = run_program("torch.npu.device_count()", EMULATOR_DEVICES="many")
    assert finished.returncode != 0
    assert "EMULATOR_DEVICES=many: expected an integer" in finished.stderr
