# SPDX-License-Identifier: Apache-2.0
"""What a rank's process asks the emulator; on a real NPU the schedule is its own and nobody watches for races."""

from __future__ import annotations


def set_seed(seed: int) -> None:
    """Seeds the delays of this process's streams."""
    try:
        from emulator import schedule

        schedule.set_seed(seed)
    except (ImportError, RuntimeError):
        pass


def races() -> list[str]:
    """The races that were seen in this process."""
    try:
        from emulator import races

        return races.reports()
    except (ImportError, RuntimeError):
        return []
