# SPDX-License-Identifier: Apache-2.0
"""Host streams and events: torch's contract, and what vLLM does with them on the CPU."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import torch

from vllm_ascend_ext.integration.cpu_platform import streams
from vllm_ascend_ext.integration.cpu_platform.streams import HostEvent, HostStream

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="host streams are refused on CUDA")


@pytest.fixture
def host_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-ins for one test."""
    for owner, name, _ in streams.host_attributes():
        monkeypatch.setattr(owner, name, getattr(owner, name))
    streams.install_host_streams()


def test_elapsed_time_is_in_milliseconds() -> None:
    start, end = HostEvent(enable_timing=True), HostEvent(enable_timing=True)
    start.record()
    time.sleep(0.02)
    end.record()
    assert 20 <= start.elapsed_time(end) < 2000
    assert end.elapsed_time(start) < 0


def test_elapsed_time_needs_timing_and_a_record() -> None:
    timed, untimed = HostEvent(enable_timing=True), HostEvent()
    untimed.record()
    with pytest.raises(RuntimeError, match="enable_timing"):
        timed.elapsed_time(untimed)
    with pytest.raises(RuntimeError, match="recorded"):
        timed.elapsed_time(HostEvent(enable_timing=True))


def test_record_event_makes_or_takes_an_event() -> None:
    stream, event = HostStream(), HostEvent(enable_timing=True)
    assert stream.record_event(event) is event
    assert event.elapsed_time(stream.record_event(HostEvent(enable_timing=True))) >= 0
    assert isinstance(stream.record_event(), HostEvent)


def test_current_stream_nests_and_survives_an_error(host_streams: None) -> None:
    outer, inner = torch.cuda.Stream(), torch.cuda.Stream()
    default = torch.cuda.current_stream()
    assert default is torch.cuda.default_stream()
    with torch.cuda.stream(outer):
        with pytest.raises(ZeroDivisionError), inner:
            assert torch.accelerator.current_stream() is inner
            torch.cuda.set_stream(outer)
            raise ZeroDivisionError
        assert torch.cuda.current_stream() is outer
        with outer, torch.cuda.stream(None):
            torch.cuda.set_stream(None)
            assert torch.cuda.current_stream() is outer
        assert torch.cuda.current_stream() is outer
    assert torch.cuda.current_stream() is default


def test_current_stream_belongs_to_the_thread() -> None:
    seen: list[HostStream] = []
    with HostStream():
        thread = threading.Thread(target=lambda: seen.append(streams.current_stream()))
        thread.start()
        thread.join()
    assert seen == [streams.default_stream()]


def test_asynchronous_output_copy(host_streams: None) -> None:
    """The calls of vLLM's AsyncGPUModelRunnerOutput and of EPLB's timing, on the installed names."""
    copy_stream, done = torch.cuda.Stream(device=0), torch.Event()
    start = torch.cuda.Event(enable_timing=True)
    start.record()
    tokens = torch.arange(3)
    default = torch.cuda.current_stream()
    with torch.cuda.stream(copy_stream):
        copy_stream.wait_stream(default)
        copied = tokens.to("cpu", non_blocking=True)
        done.record()
    default.wait_event(done)
    done.wait(copy_stream)
    done.synchronize()
    end = torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True))
    torch.accelerator.synchronize()
    torch.accelerator.empty_cache()
    assert done.query() and copy_stream.query()
    assert start.elapsed_time(end) > 0
    assert copied.tolist() == [0, 1, 2]


def test_installing_again_wins_over_later_placeholders(
    host_streams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vllm.v1.worker.cpu.shm replaces the names when it is imported."""
    monkeypatch.setattr(torch, "Event", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    streams.install_host_streams()
    assert torch.Event is HostEvent
    assert isinstance(torch.cuda.current_stream(), HostStream)


def test_refused_on_a_machine_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    event = torch.Event
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="CUDA"):
        streams.install_host_streams()
    assert torch.Event is event


def test_dynamo_works_afterwards() -> None:
    """torch._dynamo looks at torch's stream and event classes when it is imported."""
    program = (
        "from vllm_ascend_ext.integration.cpu_platform.streams import install_host_streams\n"
        "install_host_streams()\n"
        "import torch\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist() == [2, 2]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
