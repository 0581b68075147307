# SPDX-License-Identifier: Apache-2.0
"""DP gather over HCCL on two NPUs: every mode, forward mode and skew equals one process, free of races.

SCHEDULES sets the number of schedules (1 by default).
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.npu_ranks import NUM_RANKS, needs_two_npus, run_ranks

NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "1"))

pytestmark = needs_two_npus


def test_two_npus_equal_one_process(tmp_path: Path) -> None:
    timeout_s = 180 * NUM_SCHEDULES
    outcomes = run_ranks("tests.dp_gather.hccl_ranks", tmp_path, NUM_SCHEDULES, timeout_s=timeout_s)
    # DP2: 10 forward modes x 3 modes; TP2 in one replica: the same, replicated and partial
    assert outcomes == [{"num_layers": NUM_SCHEDULES * 90, "races": []}] * NUM_RANKS
