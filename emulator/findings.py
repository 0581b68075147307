# SPDX-License-Identifier: Apache-2.0
"""Collects what the checker and the device say about this process and its children, and the seed they run
under."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .child_reports import ChildReports


class Findings:
    """Collects race reports and failures since the last look; children's come through ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children = ChildReports(folder)

    def take(self) -> list[str]:
        """Returns new race reports, this process's first; none of them is reported again."""
        own: list[str] = []
        if "torch_npu" in sys.modules:
            from . import races

            own = races.reports()
            races.clear()
        return [*own, *self._children.take()]

    def failure(self) -> str:
        """Returns the device's asynchronous failure, once all that was issued here has run; empty without one."""
        if "torch_npu" not in sys.modules:
            return ""
        from . import races

        return races.failure()


class Schedule:
    """Holds the seeds of this session; children started under one inherit it."""

    def __init__(self, num_schedules: int, seed: int | None, emulated: bool) -> None:
        own = int(os.environ.get("EMULATOR_SEED", "0"))
        self.seeds = [seed if seed is not None else own]
        if seed is None and num_schedules > 0:
            self.seeds = list(range(1, num_schedules + 1))
        self.current = self.seeds[0]
        self._emulated = emulated

    def use(self, seed: int) -> None:
        """Runs under this seed from now on."""
        self.current = seed
        if not self._emulated:
            return
        os.environ["EMULATOR_SEED"] = str(seed)
        if "torch_npu" in sys.modules:
            from . import schedule

            schedule.set_seed(seed)

    def each(self) -> Iterator[int]:
        """Yields every seed, in force while the loop stands at it."""
        for seed in self.seeds:
            self.use(seed)
            yield seed

    def describe(self) -> str:
        return f"{self.seeds[0]}" if len(self.seeds) == 1 else f"{self.seeds[0]} to {self.seeds[-1]}"
