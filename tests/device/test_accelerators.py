# SPDX-License-Identifier: Apache-2.0
"""What both accelerators do alike: CUDA on a GPU, the NPU (or the emulator, whose race checker then watches)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from vllm_ascend_ext.device import DeadlineError, Device, create_device
from vllm_ascend_ext.device.npu import npu_stream_switch
from vllm_ascend_ext.ops import expert_load_add_


class Accelerator(NamedTuple):
    """One accelerator. module: torch's module of it; absent: what is said of a device that is not there."""

    device: Device
    module: Any
    graph: Callable[[], Any]
    absent: str


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.cuda), pytest.param("npu", marks=pytest.mark.npu)])
def accelerator(request: pytest.FixtureRequest) -> Accelerator:
    module = getattr(torch, request.param)
    graph, absent = {"cuda": ("CUDAGraph", "CUDA devices"), "npu": ("NPUGraph", "torch_npu sees")}[request.param]
    return Accelerator(create_device(request.param), module, getattr(module, graph), absent)


@pytest.fixture
def device(accelerator: Accelerator) -> Device:
    return accelerator.device


def test_capabilities(device):
    capabilities = device.capabilities
    assert capabilities.side_streams and capabilities.graph_capture and capabilities.pinned_memory
    assert capabilities.device_collectives


def test_streams_events_and_pinned_memory(device):
    main, side = device.current_stream(), device.stream("load")
    assert side is device.stream("load") and side != main
    assert device.stream("other") not in (main, side)
    source = torch.full((1 << 20,), 7, dtype=torch.int32, device=device.device)
    target = device.pinned_empty(source.shape, source.dtype)
    assert target.is_pinned()
    before, after = device.event(), device.event()
    before.record()
    with device.stream_switch(side):
        assert device.current_stream() == side
        before.wait()
        target.copy_(source, non_blocking=True)
        after.record()
    assert device.current_stream() == main
    after.synchronize(timeout_s=60)
    assert after.query() and bool((target == 7).all())
    with device.stream_switch(side, enabled=False):
        assert device.current_stream() == main
    assert not device.is_capturing()


def test_events_of_named_streams(device):
    """record and wait with the stream named, instead of the current one."""
    side = device.stream("load")
    values = torch.zeros(1 << 16, device=device.device)
    forth, back = device.event(), device.event()
    assert forth.query()  # never recorded: reached
    for _ in range(8):
        values.add_(1)
        forth.record(device.current_stream())
        forth.wait(side)
        with device.stream_switch(side):
            values.mul_(2)
        back.record(side)
        back.wait(device.current_stream())
    assert torch.all(values == 2**9 - 2)


def test_event_deadline(accelerator):
    device = accelerator.device
    factor = torch.full((2000, 2000), 1e-3, device=device.device)
    factor @ factor  # what the first call prepares takes its time on the host
    accelerator.module.synchronize()
    for _ in range(50 if device.device.type == "cuda" else 3):  # longer than the host takes to ask
        factor = factor @ factor
    event = device.event()
    event.record()
    with pytest.raises(DeadlineError, match="not reached within 0 s"):
        event.synchronize(timeout_s=0)
    event.synchronize(timeout_s=60)


def test_pinned_round_trip(device):
    """Two pinned buffers in turn, each written again only when its copy is known to be complete."""
    buffers = [device.pinned_empty((256,), torch.int64) for _ in range(2)]
    done = [device.event() for _ in buffers]
    total = torch.zeros(256, dtype=torch.int64, device=device.device)
    for step in range(6):
        buffer, event = buffers[step % 2], done[step % 2]
        event.synchronize(timeout_s=60)
        buffer.fill_(step)
        total.add_(buffer.to(device.device, non_blocking=True))
        event.record()
    assert total.unique().tolist() == [15]


def test_missing_device(accelerator):
    with pytest.raises(RuntimeError, match=accelerator.absent):
        create_device(accelerator.device.device.type, accelerator.module.device_count())


def test_expert_load_in_a_graph_follows_the_scalar(accelerator):
    device = accelerator.device
    load = torch.zeros(4, dtype=torch.int32, device=device.device)
    topk_ids = torch.tensor([[0, 1], [2, -1], [3, 3]], device=device.device)
    num_tokens = torch.zeros((), dtype=torch.int32, device=device.device)
    expert_load_add_(load, topk_ids, num_tokens)  # warm-up
    graph = accelerator.graph()
    assert not device.is_capturing()
    with accelerator.module.graph(graph):
        assert device.is_capturing()
        expert_load_add_(load, topk_ids, num_tokens)
    for count in (1, 2):
        num_tokens.fill_(count)
        graph.replay()
    accelerator.module.synchronize()
    assert load.tolist() == [2, 2, 1, 0]


def test_capture_with_a_joined_side_stream(accelerator):
    """The state is that of the current stream, and work on a joined side stream is replayed too."""
    device = accelerator.device
    side = device.stream("load")
    values = torch.zeros(1024, device=device.device)
    doubled = torch.empty_like(values)
    forth, back = device.event(), device.event()
    graph = accelerator.graph()
    with accelerator.module.graph(graph):
        assert device.is_capturing()
        values.add_(1)
        forth.record()
        with device.stream_switch(side):
            forth.wait()
            assert device.is_capturing()
            torch.mul(values, 2, out=doubled)
            back.record()
        back.wait()
        values.add_(1)
    assert not device.is_capturing()
    for _ in range(3):
        graph.replay()
    accelerator.module.synchronize()
    assert values.unique().tolist() == [6] and doubled.unique().tolist() == [10]


@pytest.mark.npu
def test_stream_switch_of_the_npu():
    """The description, the free function, and that it is called as vllm-ascend's."""
    device = create_device("npu")
    assert "Ascend" in device.capabilities.description
    main, side = device.current_stream(), device.stream("load")
    with npu_stream_switch(side):
        assert device.current_stream() == side
    with npu_stream_switch(side, enabled=False):
        assert device.current_stream() == main
    theirs = pytest.importorskip("vllm_ascend.utils").npu_stream_switch
    ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (npu_stream_switch, theirs))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]
