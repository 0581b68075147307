# SPDX-License-Identifier: Apache-2.0
"""Says which process holds an end of a ring, for people: whether one does is what the kernel says (`lock`)."""

from __future__ import annotations

import os
from typing import NamedTuple


class Owner(NamedTuple):
    """Names the process that holds an end of a ring or held it last.

    Attributes:
        pid: its id, 0 for nobody. It counts in the process's own PID namespace only.
        namespace: the inode of that namespace.
        is_alive: whether the process holds the end now; the kernel releases it when a process ends.
    """

    pid: int
    namespace: int
    is_alive: bool

    def __str__(self) -> str:
        if not self.pid:
            return "nobody"
        where = "" if self.namespace == pid_namespace() else " of another PID namespace"
        return f"process {self.pid}{where}" + ("" if self.is_alive else ", which is dead")


def pid_namespace() -> int:
    """Returns the inode of this process's PID namespace, 0 where there is no /proc to tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
