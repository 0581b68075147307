# SPDX-License-Identifier: Apache-2.0
"""Expert load summed over two NPUs, by Gloo and by HCCL on the side stream: exact, alike on both, free of races.

SCHEDULES sets the number of schedules (3 by default); every other one replays a captured graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.npu.aggregator_ranks import EXPERTS, LAYERS, NUM_STEPS, REQUIRED, route

NUM_RANKS = 2
NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "3"))
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.npu,
    pytest.mark.skipif(
        not (hasattr(torch, "npu") and torch.npu.device_count() >= NUM_RANKS), reason="no two Ascend NPUs"
    ),
]


@pytest.mark.parametrize("way", ["host", "device"])
def test_two_npus_are_handed_the_same_exact_sums(way: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.npu.aggregator_ranks"]
    ranks = [
        subprocess.Popen([*program, str(rank), str(NUM_RANKS), way, str(tmp_path), str(NUM_SCHEDULES)], cwd=ROOT)
        for rank in range(NUM_RANKS)
    ]
    try:
        assert [rank.wait(timeout=120 + 2 * NUM_SCHEDULES) for rank in ranks] == [0] * NUM_RANKS
    finally:
        for process in ranks:
            process.kill()
    outcomes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(NUM_RANKS)]
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
