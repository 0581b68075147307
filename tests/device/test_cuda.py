# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vllm_ascend_ext.device import DeadlineError, create_device
from vllm_ascend_ext.ops import expert_load_add_

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def test_streams_events_and_pinned_memory():
    device = create_device("cuda")
    capabilities = device.capabilities
    assert capabilities.side_streams and capabilities.graph_capture and capabilities.pinned_memory
    main, side = device.current_stream(), device.stream("load")
    assert side is device.stream("load") and side != main
    source = torch.full((1 << 20,), 7, device=device.device)
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


def test_event_deadline():
    device = create_device("cuda")
    torch.cuda._sleep(2_000_000_000)  # about a second of clock cycles
    event = device.event()
    event.record()
    with pytest.raises(DeadlineError):
        event.synchronize(timeout_s=0.01)
    event.synchronize(timeout_s=60)


def test_missing_gpu():
    with pytest.raises(RuntimeError, match="CUDA devices"):
        create_device("cuda", torch.cuda.device_count())


def test_expert_load_in_a_graph_follows_the_scalar():
    device = create_device("cuda")
    load = torch.zeros(4, dtype=torch.int32, device=device.device)
    topk_ids = torch.tensor([[0, 1], [2, -1], [3, 3]], device=device.device)
    num_tokens = torch.zeros((), dtype=torch.int32, device=device.device)
    expert_load_add_(load, topk_ids, num_tokens)  # warm-up
    graph = torch.cuda.CUDAGraph()
    assert not device.is_capturing()
    with torch.cuda.graph(graph):
        assert device.is_capturing()
        expert_load_add_(load, topk_ids, num_tokens)
    for count in (1, 2):
        num_tokens.fill_(count)
        graph.replay()
    torch.cuda.synchronize()
    assert load.tolist() == [2, 2, 1, 0]
