# SPDX-License-Identifier: Apache-2.0
"""Keeps a reader of each replica's frames: killed at random and started again, and again where a server has closed
its ring."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

_LIFE_S = 25.0  # of a reader, on average
_END_S = 90.0


class Readers:
    """Runs `tests.soak.frames` for each replica.

    Args:
        instance: instance number of the servers' rings.
        num_replicas: how many rings there are.
        folder: where readers write.
        rng: when they are killed.
        problems: where it says which readers ended otherwise than they should.
    """

    def __init__(
        self, instance: int, num_replicas: int, folder: Path, rng: random.Random, problems: list[str]
    ) -> None:
        self._instance, self._folder, self._rng, self._problems = instance, folder, rng, problems
        self._processes = {replica: self._started(replica) for replica in range(num_replicas)}

    def frames_of(self, replica: int) -> Path:
        """Returns the file with a replica's frames."""
        return self._folder / f"frames-{replica}.jsonl"

    def come_back(self) -> None:
        """Starts those again that have ended because a server has closed its ring: a worker that ends in order,
        as after another's death."""
        for replica, reader in self._processes.items():
            status = reader.poll()
            if status is not None:
                self._note(status)
                self._processes[replica] = self._started(replica)

    async def kill_at_random(self, kills: Counter[str]) -> None:
        """Kills one now and then and starts it again, until this is cancelled."""
        sizes = Counter[int]()  # of what was read before the last kill
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / _LIFE_S))
                replica = self._rng.choice(list(self._processes))
                # a reader may take longer to start on a busy machine; a ring without one ends the server
                while self._num_bytes(replica) == sizes[replica]:
                    await asyncio.sleep(1)
                sizes[replica] = self._num_bytes(replica)
                reader = self._processes[replica]
                reader.kill()
                if reader.wait() != -signal.SIGKILL:
                    self._problems.append(f"a reader had ended with status {reader.returncode}")
                kills["reader"] += 1
                self._processes[replica] = self._started(replica)

    def wait(self) -> None:
        """Waits until all have been told that their rings are closed."""
        for reader in self._processes.values():
            self._note(reader.wait(timeout=_END_S))

    def kill(self) -> None:
        """Ends those that still run."""
        for reader in self._processes.values():
            reader.kill()
            reader.wait()

    def _note(self, status: int) -> None:
        if status:
            self._problems.append(f"a reader ended with status {status}")

    def _started(self, replica: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.soak.frames", str(self._instance), str(replica)]
        with (self._folder / "readers.log").open("ab") as log:
            return subprocess.Popen([*command, str(self.frames_of(replica))], stderr=log)

    def _num_bytes(self, replica: int) -> int:
        """Returns the bytes that readers have written of a replica's frames."""
        file = self.frames_of(replica)
        return file.stat().st_size if file.exists() else 0
