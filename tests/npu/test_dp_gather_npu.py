# SPDX-License-Identifier: Apache-2.0
"""DP gather over HCCL on two NPUs: every mode, forward mode and skew equals one process, free of races.

SCHEDULES sets the number of schedules (1 by default).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

NUM_RANKS = 2
NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "1"))
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.npu,
    pytest.mark.skipif(
        not (hasattr(torch, "npu") and torch.npu.device_count() >= NUM_RANKS), reason="no two Ascend NPUs"
    ),
]


def test_two_npus_equal_one_process(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.npu.dp_gather_ranks"]
    ranks = [
        subprocess.Popen([*program, str(rank), str(NUM_RANKS), str(tmp_path), str(NUM_SCHEDULES)], cwd=ROOT)
        for rank in range(NUM_RANKS)
    ]
    try:
        assert [rank.wait(timeout=180 * NUM_SCHEDULES) for rank in ranks] == [0] * NUM_RANKS
    finally:
        for process in ranks:
            process.kill()
    for rank in range(NUM_RANKS):
        outcome = json.loads((tmp_path / f"{rank}.json").read_text())
        # DP2: 10 forward modes x 3 modes; TP2 in one replica: the same, replicated and partial
        assert outcome == {"num_layers": NUM_SCHEDULES * 90, "races": []}
