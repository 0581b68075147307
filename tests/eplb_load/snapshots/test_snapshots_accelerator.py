# SPDX-License-Identifier: Apache-2.0
"""Expert load on a GPU and on an NPU: exact through side stream and events, eagerly and from a captured graph.

SCHEDULES sets the number of seeds (3 by default).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from tests.support.load_run import NUM_SCHEDULES, Make, assert_hand_overs_exact, device_way, host_way

GRAPHS = {"cuda": "CUDAGraph", "npu": "NPUGraph"}


def captured(device_type: str, launch: Callable[[], None]) -> Callable[[], None]:
    backend = getattr(torch, device_type)
    graph = getattr(backend, GRAPHS[device_type])()
    with backend.graph(graph):
        launch()
    replay: Callable[[], None] = graph.replay
    return replay


@pytest.mark.parametrize(
    "device_type", [pytest.param("cuda", marks=pytest.mark.cuda), pytest.param("npu", marks=pytest.mark.npu)]
)
@pytest.mark.parametrize("make", [host_way, device_way])
@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("seed", range(NUM_SCHEDULES))
def test_every_hand_over_is_exact(device_type: str, make: Make, in_graph: bool, seed: int) -> None:
    capture = partial(captured, device_type) if in_graph else None
    assert_hand_overs_exact(device_type, make, capture, seed)
