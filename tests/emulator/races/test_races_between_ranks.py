# SPDX-License-Identifier: Apache-2.0
"""Planted bugs between two ranks over HCCL, in processes of their own: reported every time, their twins never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.races.peers.planted_peers import PEERS
from tests.emulator.races.planted_ranks import PROGRAMS

pytestmark = pytest.mark.emulator

ROOT = Path(__file__).resolve().parents[3]
RUNS, SEEDS = 3, 20  # 100 and its own number with --npu-schedules
REPORTS = {
    "mismatched_collective": (
        "disagree",
        "HcclAllReduce(count 8",
        "HcclAllGather(count 8",
        "in mismatched_collective",
    ),
    "mismatched_count": ("disagree", "count 8", "count 9", "in mismatched_count"),
    "dead_peer": ("rank 1", "gone", "HcclAllReduce", "in dead_peer"),
    "missing_work_wait": ("does not wait for HcclAllReduce", "in missing_work_wait"),
    "memory_used_twice": ("HcclAlltoAll", "uses the same memory twice", "in memory_used_twice"),
    "expert_load_of_4214": ("does not wait for", "in add_layer", "in run_expert_load"),
}
REPORTS |= {peer.__name__: ("does not wait for", f"in {peer.__name__}") for peer in PEERS}
ONE_SIDED = [peer.__name__ for peer in PEERS]  # the race is rank 0's
FAILING = ("mismatched_collective", "mismatched_count", "dead_peer")


@pytest.fixture(autouse=True)
def all_seeds(npu_schedules: Iterable[int]) -> None:
    """The ranks go through the seeds themselves."""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What planted_ranks.py printed."""
    num_schedules = request.config.getoption("npu_schedules")
    counts = (100, num_schedules) if num_schedules > 1 else (RUNS, SEEDS)
    log = tmp_path_factory.mktemp("log")  # the planted bugs' reports are not this session's
    result = subprocess.run(
        [sys.executable, "-m", "tests.emulator.races.planted_ranks", *map(str, counts)],
        cwd=ROOT, env=os.environ | {"EMULATOR_RACE_LOG": str(log)}, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def of(runs: list[dict[str, Any]], program: str, correct: bool) -> list[list[dict[str, Any] | None]]:
    return [run["ranks"] for run in runs if run["program"] == program and run["correct"] == correct]


@pytest.mark.parametrize("program", PROGRAMS)
def test_planted_bug_is_reported_every_time(program: str, runs: list[dict[str, Any]]) -> None:
    planted = of(runs, program, False)
    assert len(planted) >= RUNS
    for ranks in planted:
        survivors = [rank for rank in ranks if rank is not None]
        assert len(survivors) == (1 if program == "dead_peer" else 2)
        if program in ONE_SIDED:
            assert not survivors[1]["reports"], survivors[1]
        for rank in survivors[:1] if program in ONE_SIDED else survivors:
            reports = rank["reports"]
            assert any(all(text in report for text in REPORTS[program]) for report in reports), rank
            if program == "memory_used_twice":  # each of its three calls
                assert sum("uses the same memory twice" in report for report in reports) == 3
            if program in FAILING:  # Python learns of it, too, on every rank
                assert REPORTS[program][0] in rank["error"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_corrected_twin_is_clean(program: str, runs: list[dict[str, Any]]) -> None:
    (ranks,) = of(runs, program, True)
    for rank in ranks:
        assert rank is not None and not rank["error"] and not rank["reports"], rank
        assert len(rank["right"]) >= SEEDS and all(rank["right"]), rank
