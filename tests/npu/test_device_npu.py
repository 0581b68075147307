# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.device.npu import npu_stream_switch
from vllm_ascend_ext.ops import expert_load_add_


def _has_npu():
    try:
        create_device("npu")
    except (ImportError, RuntimeError):
        return False
    return True


pytestmark = [pytest.mark.npu, pytest.mark.skipif(not _has_npu(), reason="no Ascend NPU")]


def test_streams_events_and_pinned_memory():
    device = create_device("npu")
    capabilities = device.capabilities
    assert capabilities.side_streams and capabilities.graph_capture and capabilities.pinned_memory
    main, side = device.current_stream(), device.stream("load")
    assert side is device.stream("load") and side != main
    source = torch.full((1 << 20,), 7, dtype=torch.int32, device=device.device)
    target = device.pinned_empty(source.shape, source.dtype)
    assert target.is_pinned()
    before, after = device.event(), device.event()
    before.record()
    with npu_stream_switch(side):
        assert device.current_stream() == side
        before.wait()
        target.copy_(source, non_blocking=True)
        after.record()
    assert device.current_stream() == main
    after.synchronize(timeout_s=60)
    assert after.query() and bool((target == 7).all())
    with npu_stream_switch(side, enabled=False):
        assert device.current_stream() == main
    assert not device.is_capturing()


def test_expert_load_equals_the_cpu():
    device = create_device("npu")
    generator = torch.Generator().manual_seed(0)
    topk_ids = torch.randint(-1, 17, (33, 6), generator=generator, dtype=torch.int32)
    num_tokens = torch.tensor(29, dtype=torch.int32)
    expected = torch.zeros(16, dtype=torch.int32)
    expert_load_add_(expected, topk_ids, num_tokens)
    load = torch.zeros(16, dtype=torch.int32, device=device.device)
    expert_load_add_(load, topk_ids.to(device.device), num_tokens.to(device.device))
    assert torch.equal(load.cpu(), expected)
