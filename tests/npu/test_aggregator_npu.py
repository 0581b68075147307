# SPDX-License-Identifier: Apache-2.0
"""Expert load on an NPU: exact through side stream and events, in eager mode and from a captured graph.

SCHEDULES sets the number of seeds (3 by default).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from tests.load_run import Make, Run
from vllm_ascend_ext.device import Device, create_device
from vllm_ascend_ext.eplb.device_sum import DeviceAggregator
from vllm_ascend_ext.eplb.host_sum import HostAggregator

pytestmark = [
    pytest.mark.npu,
    pytest.mark.skipif(not (hasattr(torch, "npu") and torch.npu.is_available()), reason="no Ascend NPU"),
]

NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "3"))


class OneRank:
    num_ranks = 1

    def all_reduce_(self, x: torch.Tensor) -> None:
        x.add_(0)  # one more task in the order of the stream


def host_way(device: Device, recorders: list, **options: object) -> HostAggregator:
    return HostAggregator(recorders, device, None, **options)


def device_way(device: Device, recorders: list, **options: object) -> DeviceAggregator:
    return DeviceAggregator(recorders, device, OneRank(), **options)


def captured(launch: Callable[[], None]) -> Callable[[], None]:
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        launch()
    return graph.replay


@pytest.mark.parametrize("make", [host_way, device_way])
@pytest.mark.parametrize("capture", [None, captured], ids=["eager", "graph"])
@pytest.mark.parametrize("seed", range(NUM_SCHEDULES))
def test_every_hand_over_is_exact(
    make: Make, capture: Callable[[Callable[[], None]], Callable[[], None]] | None, seed: int
) -> None:
    device = create_device("npu")
    run = Run(device, make, seed, capture, num_slots=1 + seed % 3)
    run.go(60, interval=1 + seed % 2, pause_s=0.001 * (seed % 2))
    assert run.errors() == []
    run.aggregator.close()
