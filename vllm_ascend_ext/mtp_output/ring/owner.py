# SPDX-License-Identifier: Apache-2.0
"""Records which process holds an end of a ring, and tells whether that process lives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Owner(NamedTuple):
    """Identifies a process, or nobody (all 0).

    Attributes:
        pid: its id.
        start_ticks: time of its start (clock ticks since boot), because ids are used again.
        namespace: the inode of the PID namespace in which `pid` counts.
    """

    pid: int
    start_ticks: int
    namespace: int

    @classmethod
    def this_process(cls) -> Owner:
        return cls(os.getpid(), _start_ticks(os.getpid()) or 0, _namespace())

    @property
    def is_somebody(self) -> bool:
        return self.pid != 0

    @property
    def is_alive(self) -> bool:
        """Returns whether the process lives. One that was killed and not waited for is dead; one that cannot be
        seen may live."""
        return self.is_somebody and (self.is_elsewhere or _start_ticks(self.pid) == self.start_ticks)

    @property
    def is_elsewhere(self) -> bool:
        """Returns whether the process is of another PID namespace (a container's), where its life cannot be
        checked."""
        return self.is_somebody and self.namespace != _namespace()

    def __str__(self) -> str:
        if not self.is_somebody:
            return "nobody"
        if self.is_elsewhere:
            return f"process {self.pid} of another PID namespace (remove the file once it is dead for sure)"
        return f"process {self.pid}" if self.is_alive else f"process {self.pid}, which is dead"


NOBODY = Owner(0, 0, 0)


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_ticks(pid: int) -> int | None:
    """Returns the start time of a process in clock ticks, None when there is no such process any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may contain anything
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
