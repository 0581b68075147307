# SPDX-License-Identifier: Apache-2.0
"""Scattered layers on two NPUs over HCCL equal one process, and are free of races.

SCHEDULES sets the number of schedules (3 by default).
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.npu_ranks import NUM_RANKS, needs_two_npus, run_ranks

NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "3"))

pytestmark = needs_two_npus


def test_two_npus_equal_one_process(tmp_path: Path) -> None:
    timeout_s = 120 + 5 * NUM_SCHEDULES
    outcomes = run_ranks("tests.attn_scatter.hccl_ranks", tmp_path, NUM_SCHEDULES, timeout_s=timeout_s)
    assert [outcome["races"] for outcome in outcomes] == [[]] * NUM_RANKS
    assert all(outcome["error"] <= 1e-6 for outcome in outcomes), outcomes
    both_ways = {"reduce_scatter_into", "all_gather_variable", "reduce_scatter_variable"}
    for outcome in outcomes:
        assert both_ways <= set(outcome["operations"])
