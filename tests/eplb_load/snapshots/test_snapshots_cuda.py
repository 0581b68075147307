# SPDX-License-Identifier: Apache-2.0
"""Expert load on a GPU: exact through side stream and events, in eager mode and from a captured graph.

SCHEDULES sets the number of seeds (3 by default).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support.load_run import NUM_SCHEDULES, Capture, Make, assert_hand_overs_exact, device_way, host_way

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def captured(launch: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph.replay


@pytest.mark.parametrize("make", [host_way, device_way])
@pytest.mark.parametrize("capture", [None, captured], ids=["eager", "graph"])
@pytest.mark.parametrize("seed", range(NUM_SCHEDULES))
def test_every_hand_over_is_exact(make: Make, capture: Capture | None, seed: int) -> None:
    assert_hand_overs_exact("cuda", make, capture, seed)
