# SPDX-License-Identifier: Apache-2.0
"""Expert load summed over two NPUs, by Gloo and by HCCL on the side stream: exact, alike on both, free of races.

SCHEDULES sets the number of schedules (3 by default); every other one replays a captured graph.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.eplb_load.snapshots.hccl_ranks import EXPERTS, LAYERS, NUM_STEPS, REQUIRED, route
from tests.support.npu_ranks import NUM_RANKS, needs_two_npus, run_ranks

NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "3"))

pytestmark = needs_two_npus


@pytest.mark.parametrize("way", ["host", "device"])
def test_two_npus_are_handed_the_same_exact_sums(way: str, tmp_path: Path) -> None:
    timeout_s = 120 + 2 * NUM_SCHEDULES
    outcomes = run_ranks("tests.eplb_load.snapshots.hccl_ranks", tmp_path, NUM_SCHEDULES, way, timeout_s=timeout_s)
    assert [outcome["races"] for outcome in outcomes] == [[]] * NUM_RANKS
    handed = outcomes[0]["handed"]
    assert outcomes[1]["handed"] == handed
    ends = [end for _, end, *_ in handed]
    assert [begin for begin, *_ in handed] == [0, *ends[:-1]]
    assert set(range(REQUIRED, NUM_SCHEDULES * NUM_STEPS + 1, REQUIRED)) <= set(ends)
    for begin, end, load_LE, num_tokens in handed:
        rows = []
        for step in range(begin + 1, end + 1):
            for rank in range(NUM_RANKS):
                topk_ids, num_real = route(rank, step)
                rows.append(topk_ids[:num_real])
        routed = torch.cat(rows)
        expected = torch.bincount(routed.flatten(), minlength=EXPERTS).tolist()
        assert load_LE == [expected] * LAYERS and num_tokens == len(routed)
