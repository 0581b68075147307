# SPDX-License-Identifier: Apache-2.0
"""Captured graphs of the emulated runtime, through the real torch_npu.

Only copies, so that nothing here depends on the emulated operators.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.emulator.races.device_work import SIZE, copy, filled, run_program, runtime, value_of

if TYPE_CHECKING:
    import torch

    from emulator.findings import Findings

pytestmark = pytest.mark.emulator


@pytest.fixture(autouse=True)
def npu() -> None:
    """torch_npu, imported only where these tests run."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.synchronize()


def captured(body: Callable[[], None]) -> torch.npu.NPUGraph:
    import torch

    graph = torch.npu.NPUGraph()
    # a capture that fails at its end stays the thread's current stream
    with torch.npu.stream(torch.npu.current_stream()), torch.npu.graph(graph):
        body()
    return graph


def side_stream() -> torch.npu.Stream:
    """Makes a stream that is not the one which captures: torch hands out 32 of them in turn."""
    import torch

    side = torch.npu.Stream()
    return torch.npu.Stream() if side == torch.npu.graph.default_capture_stream else side


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

    side = side_stream()
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

    side = side_stream()
    source, target = filled(1), filled(0)

    def body() -> None:
        side.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(side):
            copy(target, source)

    with pytest.raises(RuntimeError, match=r"ended without waiting for\s+stream \d+ of npu:0"):
        captured(body)
    (report,) = race_reports.take()
    assert "copy device to device" in report and "test_graphs.py" in report
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


def test_a_copy_that_the_host_waits_for_is_refused_while_a_graph_is_captured() -> None:
    import torch

    source, target, host = filled(1), filled(0), torch.ones(SIZE)
    codes = []

    def body() -> None:
        copy(target, source)
        size, address = ctypes.c_size_t(host.nbytes), ctypes.c_void_p(host.data_ptr())
        codes.append(runtime().aclrtMemcpy(ctypes.c_void_p(source.data_ptr()), size, address, size, 1))

    captured(body)
    assert codes == [107030]


def test_a_graph_is_described_in_a_file(tmp_path: Path) -> None:
    source, target = filled(1), filled(0)
    graph = captured(lambda: copy(target, source))
    graph.debug_dump(str(tmp_path / "graph.txt"))
    assert "0: copy device to device after []" in (tmp_path / "graph.txt").read_text()


def test_a_task_group_is_updated_between_replays() -> None:
    """As vllm-ascend does: the replay waits for an external event until another stream has updated it."""
    import torch

    first, second, target = filled(1), filled(2), filled(0)
    update_stream = side_stream()
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


def test_an_external_event_that_is_never_recorded_fails_after_a_while() -> None:
    program = """
event, graph = torch.npu.ExternalEvent(), torch.npu.NPUGraph()
source, target = torch.ones(4).npu(), torch.zeros(4).npu()
torch.npu.synchronize()
with torch.npu.graph(graph):
    event.wait(torch.npu.current_stream())
    torch_npu.copy_memory_(target, source, non_blocking=True)
graph.replay()
torch.npu.synchronize()
"""
    finished = run_program(program, EMULATOR_HCCL_TIMEOUT_S="0.3", TASK_QUEUE_ENABLE="0")
    assert finished.returncode != 0
    assert "for an external event that no stream has recorded" in finished.stderr


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
    stream = side_stream()
    torch.npu.graph_task_update_begin(stream, handles[0])
    with pytest.raises(RuntimeError, match="the group has 1 tasks, the update 0"):
        torch.npu.graph_task_update_end(stream)
    del graph


def test_a_host_function_reads_what_its_graph_has_copied() -> None:
    import torch
    import torch_npu

    source = torch.full((1024,), 2.0, device="npu")
    pinned = torch.empty(1024, pin_memory=True)
    sums: list[float] = []
    graph, stream = torch.npu.NPUGraph(), side_stream()
    torch.npu.synchronize()
    with torch.npu.graph(graph, stream=stream):
        pinned.copy_(source, non_blocking=True)
        torch_npu.npu._subscribe_report(stream)
        torch_npu.npu._launch_host_func(stream, lambda _: sums.append(pinned.sum().item()), None)
    graph.replay()
    torch.npu.synchronize()
    torch_npu.npu._unsubscribe_report(stream)
    assert sums == [2048.0]  # and no race is reported
