# SPDX-License-Identifier: Apache-2.0
"""Follows the memory and open files of a server's processes, and tells how they grow."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import psutil

from tests.support.server import SHARED_MEMORY, Server

_PERIOD_S = 5.0
SETTLE_S = 120.0  # of a server's life, in which caches and pools fill
_LEAST_S = 120.0  # a shorter time tells nothing of growth
Series = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Growth:
    """Tells how one quantity of one process has grown: a line through `num_points` values in `seconds`."""

    quantity: str
    process: str
    first: float
    per_minute: float
    seconds: float
    num_points: int

    def __str__(self) -> str:
        unit = "files" if self.quantity == "open files" else "MiB"
        return (
            f"{self.quantity:14} {self.process:28} {self.first:9.1f} {unit:5} "
            f"{self.per_minute:+8.3f} a minute over {self.seconds / 60:.1f} min"
        )


def slope(points: list[tuple[float, float]]) -> float:
    """Returns how much a value grows a second, by least squares."""
    times, values = np.array(points).T
    return float(np.polyfit(times - times[0], values, 1)[0])


def growth_of(series: Series, quantity: str, settle_s: float = SETTLE_S) -> list[Growth]:
    """Returns the growth of each process that lived long enough, without the time in which it settles."""
    found = []
    for process, points in series.items():
        kept = [point for point in points if point[0] >= points[0][0] + settle_s]
        if len(kept) > 2 and kept[-1][0] - kept[0][0] >= _LEAST_S:
            seconds = kept[-1][0] - kept[0][0]
            found.append(Growth(quantity, process, kept[0][1], slope(kept) * 60, seconds, len(kept)))
    return found


class Watch(threading.Thread):
    """Samples the processes of one server until `finish`."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server, self._done = server, threading.Event()
        self.rss: Series = defaultdict(list)
        self.files: Series = defaultdict(list)
        self.shared: Series = defaultdict(list)
        self.start()

    def run(self) -> None:
        while not self._done.wait(_PERIOD_S):
            now = time.monotonic()
            self.shared[str(SHARED_MEMORY)].append((now, shutil.disk_usage(SHARED_MEMORY).used / 2**20))
            for process in self._server.processes():
                try:
                    memory = process.memory_info()
                    name = f"{name_of(process)} {process.pid}"
                    self.rss[name].append((now, (memory.rss - memory.shared) / 2**20))
                    self.files[name].append((now, process.num_fds()))
                except psutil.Error:
                    continue  # it has just ended

    def finish(self) -> list[Growth]:
        """Ends the watch; returns the growth of every process's own memory, of its files, and of shared memory."""
        self._done.set()
        self.join()
        growths = [("memory", self.rss), ("open files", self.files), ("shared memory", self.shared)]
        return [growth for quantity, series in growths for growth in growth_of(series, quantity)]


def name_of(process: psutil.Process) -> str:
    """Returns the title that vLLM gives its processes, else the program."""
    title = process.cmdline()[0] if process.cmdline() else process.name()
    found = re.match(r"VLLM::(\S+)", title)
    return found[1] if found else "launcher" if "serve" in process.cmdline() else process.name()
