# SPDX-License-Identifier: Apache-2.0
import importlib.util
import threading

import pytest
import torch

from vllm_ascend_ext.device import DeadlineError, create_device
from vllm_ascend_ext.device.base import NativeEvent
from vllm_ascend_ext.device.npu import npu_stream_switch


def test_unknown_device_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown device type 'tpu'; known: cpu, cuda, npu"):
        create_device("tpu")


def test_only_one_cpu():
    with pytest.raises(ValueError, match="cpu:1"):
        create_device("cpu", 1)


def test_one_persistent_stream_a_name():
    device = create_device("cpu")
    assert device.stream("load") is device.stream("load")
    assert device.stream("load") is not device.stream("copy")
    assert device.stream("load") is not device.current_stream()
    assert device.stream("load") is not create_device("cpu").stream("load")


def test_stream_of_one_name_is_made_once_by_many_threads():
    device, barrier, streams = create_device("cpu"), threading.Barrier(8), []

    def ask():
        barrier.wait(timeout=10)
        streams.append(device.stream("load"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(streams) == 8 and len({id(stream) for stream in streams}) == 1


def test_stream_switch_nests_and_restores_on_errors():
    device = create_device("cpu")
    main, outer, inner = device.current_stream(), device.stream("outer"), device.stream("inner")
    with pytest.raises(KeyError), device.stream_switch(outer):
        assert device.current_stream() is outer
        with device.stream_switch(inner):
            assert device.current_stream() is inner
        assert device.current_stream() is outer
        raise KeyError
    assert device.current_stream() is main


def test_disabled_stream_switch_does_nothing():
    device = create_device("cpu")
    main = device.current_stream()
    with device.stream_switch(device.stream("load"), enabled=False):
        assert device.current_stream() is main


def test_stream_switch_is_for_the_calling_thread():
    device, seen = create_device("cpu"), []
    main = device.current_stream()
    with device.stream_switch(device.stream("load")):
        thread = threading.Thread(target=lambda: seen.append(device.current_stream()))
        thread.start()
        thread.join()
    assert seen == [main]


def test_events_complete_at_once():
    device = create_device("cpu")
    event = device.event()
    event.record(device.stream("load"))
    event.wait()
    event.synchronize(timeout_s=0.0)
    assert event.query() and device.stream("load").query()


def test_pinned_empty_and_capabilities():
    device = create_device("cpu")
    tensor = device.pinned_empty([2, 3], torch.int64)
    assert tensor.shape == (2, 3) and tensor.dtype == torch.int64 and tensor.device == device.device
    capabilities = device.capabilities
    assert not capabilities.side_streams and not capabilities.pinned_memory
    assert capabilities.description.startswith("CPU")
    assert not device.is_capturing()


class _CountdownEvent:
    """A native event that is reached after some queries."""

    def __init__(self, queries):
        self.queries = queries

    def query(self):
        self.queries -= 1
        return self.queries < 0


def test_native_event_polls_until_reached():
    native = _CountdownEvent(3)
    NativeEvent(native).synchronize(timeout_s=60)
    assert native.queries == -1


def test_native_event_raises_at_the_deadline():
    with pytest.raises(DeadlineError, match="not reached within 0.01 s"):
        NativeEvent(_CountdownEvent(10**9)).synchronize(timeout_s=0.01)


def test_npu_stream_switch_disabled_needs_no_npu():
    with npu_stream_switch(None, enabled=False):
        pass
    with pytest.raises(ValueError, match="target_stream is None"):
        npu_stream_switch(None)


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed")
def test_missing_torch_npu_says_what_to_install():
    with pytest.raises(ImportError, match=r"needs torch_npu: install CANN.*vllm-ascend-ext\[npu\]"):
        create_device("npu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_says_so():
    with pytest.raises(RuntimeError, match="cuda:0: torch .* sees 0 CUDA devices"):
        create_device("cuda")
