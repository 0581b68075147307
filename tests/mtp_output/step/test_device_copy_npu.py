# SPDX-License-Identifier: Apache-2.0
"""A step's output on its way from an NPU to the host: right and race-clean; with an order taken away, reported.

`--npu-schedules 1000` runs the first test under a thousand seeds.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from tests.mtp_output.step.packed_run import PackedRun
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.device.base import Event, NativeEvent
from vllm_ascend_ext.device.npu import NpuDevice

pytestmark = [
    pytest.mark.npu,
    pytest.mark.skipif(not (hasattr(torch, "npu") and torch.npu.is_available()), reason="no Ascend NPU"),
]


@pytest.mark.parametrize("num_buffers", [1, 3])
def test_every_step_arrives(num_buffers: int) -> None:
    run = PackedRun(create_device("npu"), seed=num_buffers, num_buffers=num_buffers)
    run.go(12)
    assert run.wrong == []
    assert run.copier.stats.num_copies == 12


class _NoWait(NativeEvent):
    def wait(self, stream: object = None) -> None:
        pass


class _NoSynchronize(NativeEvent):
    def synchronize(self, timeout_s: float) -> None:
        pass


class _Without(NpuDevice):
    def __init__(self, event: type[NativeEvent]) -> None:
        super().__init__()
        self._event_class = event

    def event(self) -> Event:
        return self._event_class(torch.npu.Event())


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("event", "report"),
    [(_NoSynchronize, r"reads pinned memory before"), (_NoWait, r"does not wait for aclnnCat")],
    ids=["the host reads early", "the copy does not wait for the packing"],
)
def test_missing_order_is_reported(event: type[NativeEvent], report: str) -> None:
    races = pytest.importorskip("emulator.races")
    with races.expect(report):
        run = PackedRun(_Without(event), seed=1)
        with suppress(ValueError):  # what was read too early may be no record at all
            run.go(4)
        torch.npu.synchronize()
