# SPDX-License-Identifier: Apache-2.0
"""Scattered layers on two NPUs over HCCL equal one process, and are free of races.

SCHEDULES sets the number of schedules (3 by default).
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
NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "3"))
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.npu,
    pytest.mark.skipif(
        not (hasattr(torch, "npu") and torch.npu.device_count() >= NUM_RANKS), reason="no two Ascend NPUs"
    ),
]


def test_two_npus_equal_one_process(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.npu.scatter_ranks"]
    ranks = [
        subprocess.Popen([*program, str(rank), str(NUM_RANKS), str(tmp_path), str(NUM_SCHEDULES)], cwd=ROOT)
        for rank in range(NUM_RANKS)
    ]
    try:
        assert [rank.wait(timeout=120 + 5 * NUM_SCHEDULES) for rank in ranks] == [0] * NUM_RANKS
    finally:
        for process in ranks:
            process.kill()
    outcomes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(NUM_RANKS)]
    assert [outcome["races"] for outcome in outcomes] == [[]] * NUM_RANKS
    assert all(outcome["error"] <= 1e-6 for outcome in outcomes), outcomes
