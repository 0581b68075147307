# SPDX-License-Identifier: Apache-2.0
"""Which process holds an end of a channel, and whether it still lives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Owner(NamedTuple):
    """A process: its id, and when it started (clock ticks since boot), for ids are used again. 0, 0 is nobody."""

    pid: int
    start_ticks: int

    @classmethod
    def this_process(cls) -> Owner:
        return cls(os.getpid(), _start_ticks(os.getpid()) or 0)

    @property
    def is_somebody(self) -> bool:
        return self.pid != 0

    @property
    def is_alive(self) -> bool:
        """A process that was killed and that nobody has waited for is dead."""
        return self.is_somebody and _start_ticks(self.pid) == self.start_ticks

    def __str__(self) -> str:
        if not self.is_somebody:
            return "nobody"
        return f"process {self.pid}" if self.is_alive else f"process {self.pid}, which is dead"


NOBODY = Owner(0, 0)


def _start_ticks(pid: int) -> int | None:
    """None when there is no such process any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may contain anything
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
