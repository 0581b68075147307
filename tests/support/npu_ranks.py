# SPDX-License-Identifier: Apache-2.0
"""Runs two processes, an NPU each: how a test runs them, and what each of them does first and last."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

NUM_RANKS = 2
ROOT = Path(__file__).parents[2]

needs_two_npus = [
    pytest.mark.npu,
    pytest.mark.skipif(
        not (hasattr(torch, "npu") and torch.npu.device_count() >= NUM_RANKS), reason="no two Ascend NPUs"
    ),
]


def run_ranks(
    module: str, folder: Path, num_schedules: int, *arguments: str, timeout_s: float
) -> list[dict[str, Any]]:
    """Runs `module` as each rank, which calls `RankProcess`; what each has reported."""
    program = [sys.executable, "-m", module]
    ranks = [
        subprocess.Popen([*program, str(rank), str(folder), str(num_schedules), *arguments], cwd=ROOT)
        for rank in range(NUM_RANKS)
    ]
    try:
        assert [rank.wait(timeout=timeout_s) for rank in ranks] == [0] * NUM_RANKS
    finally:
        for process in ranks:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(NUM_RANKS)]


class RankProcess:
    """Sets up one rank, as its command line says: its NPU is chosen, and the ranks have met over Gloo.

    Attributes:
        arguments: those of `run_ranks`.
    """

    def __init__(self) -> None:
        rank, folder, num_schedules, *self.arguments = sys.argv[1:]
        self.rank, self.folder, self._num_schedules = int(rank), Path(folder), int(num_schedules)
        torch.npu.set_device(self.rank)
        rendezvous = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=rendezvous, rank=self.rank, world_size=NUM_RANKS)

    def new_group(self, backend: str = "hccl") -> dist.ProcessGroup:
        return dist.new_group(backend=backend, timeout=timedelta(seconds=60))

    def schedules(self) -> Iterator[int]:
        """Yields each schedule, with delays of its own on the emulator when there are several."""
        for schedule in range(self._num_schedules):
            if self._num_schedules > 1:
                set_seed(1 + schedule * NUM_RANKS + self.rank)
            yield schedule

    def report(self, **outcome: Any) -> None:
        """Prints, as the last thing, what the test reads, with the races that were seen here."""
        Path(self.folder, f"{self.rank}.json").write_text(json.dumps(outcome | {"races": races()}))
        dist.barrier()


def set_seed(seed: int) -> None:
    """Seeds the delays of this process's streams on the emulator; on a real NPU they are its own."""
    try:
        from emulator import schedule

        schedule.set_seed(seed)
    except (ImportError, RuntimeError):
        pass


def races() -> list[str]:
    """Returns the races that the emulator saw in this process."""
    try:
        from emulator import races

        return races.reports()
    except (ImportError, RuntimeError):
        return []
