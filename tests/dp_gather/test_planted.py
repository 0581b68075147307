# SPDX-License-Identifier: Apache-2.0
"""The emulator's race checker finds vllm-ascend #4214's gather, and our snapshots with one order taken away."""

from __future__ import annotations

import pytest
import torch

from tests.support.load_run import Run, device_way, host_way
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.device.base import Event, NativeEvent
from vllm_ascend_ext.device.npu import NpuDevice, npu_stream_switch

races = pytest.importorskip("emulator.races")

pytestmark = pytest.mark.emulator


def test_gather_of_4214_is_reported() -> None:
    """Stack on the main stream, gather on the side stream, nothing in between."""
    device = create_device("npu")
    side = device.stream("expert load")
    loads = [torch.full((4,), layer, dtype=torch.int32, device=device.device) for layer in range(3)]
    with races.expect(r"does not wait for aclnnStack", r"writes it", r"reads it"):
        stacked = torch.stack(loads)
        with npu_stream_switch(side):
            gathered = torch.empty_like(stacked)
            gathered.copy_(stacked)
            gathered.cpu()


class _NoWait(NativeEvent):
    def wait(self, stream: object = None) -> None:
        pass


class _WithoutA(NpuDevice):
    """The side stream does not wait for `take_into`."""

    def event(self) -> Event:
        return _NoWait(torch.npu.Event())


@pytest.mark.parametrize("make", [host_way, device_way])
def test_snapshots_that_do_not_wait_are_reported(make) -> None:  # type: ignore[no-untyped-def]
    with races.expect(r"does not wait for aclnnInplaceCopy"):
        run = Run(_WithoutA(), make, seed=1)
        run.go(3)
    run.snapshots.close()
