# SPDX-License-Identifier: Apache-2.0
"""Ranks for the HCCL tests. Importing torch_npu takes seconds, so a server imports it once and forks the ranks."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

PARENT_DIED = signal.SIGKILL
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Rank:
    """Holds how a rank ended, and what it printed. The status is a negative signal, or None if it had to be
    killed."""

    pid: int
    status: int | None
    output: str


class RankServer:
    """Forks ranks from a process that has imported torch_npu."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._pids: set[int] = set()
        environment = {**os.environ, "EMULATOR_RACE_LOG": "", "EMULATOR_DEVICES": "4", **variables}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.emulator.hccl.launch"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def run(
        self, program: str, num_ranks: int, deadline_s: float = 120, delays: int = 0, **arguments: Any
    ) -> list[Rank]:
        """Runs ``module.function(rank, num_ranks, folder, **arguments)`` in every rank, under a seed of delays."""
        request = {
            "program": program, "num_ranks": num_ranks, "deadline_s": deadline_s, "arguments": arguments,
            "delays": delays, "folder": tempfile.mkdtemp(dir=self._folder),
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the rank server ended with status {self._process.wait()}"
        ranks = [Rank(**rank) for rank in json.loads(answer)]
        self._pids.update(rank.pid for rank in ranks)
        return ranks

    def left_over(self) -> list[str]:
        """Returns shared memory that ranks of this server made and nobody removed."""
        segments = [name.split(".") for name in os.listdir("/dev/shm") if name.startswith("ascend-hccl.")]
        return [".".join(parts) for parts in segments if int(parts[2]) in self._pids]

    def close(self) -> None:
        self._process.communicate(timeout=30)


def process_group(rank: int, num_ranks: int, folder: str, name: str = "default") -> None:
    """Starts torch.distributed over HCCL, on a device for each rank."""
    import torch
    import torch.distributed as dist

    torch.npu.set_device(rank)
    dist.init_process_group("hccl", init_method=f"file://{folder}/{name}", rank=rank, world_size=num_ranks)


def _run_rank(request: dict[str, Any], rank: int) -> NoReturn:
    """Runs in the forked process, and ends it the way a program ends, atexit functions and all."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, PARENT_DIED)
    output = os.open(f"{request['folder']}/{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from emulator import schedule

    schedule.set_seed(request["delays"])
    module, _, function = request["program"].rpartition(".")
    status = 0
    try:
        program = getattr(importlib.import_module(f"tests.emulator.hccl.{module}"), function)
        program(rank, request["num_ranks"], folder=request["folder"], **request["arguments"])
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(status)


def _wait(pids: list[int], deadline_s: float) -> list[int | None]:
    """Returns exit statuses; what still runs at the deadline is killed."""
    statuses: dict[int, int | None] = {}
    end = time.monotonic() + deadline_s
    while len(statuses) < len(pids):
        late = time.monotonic() > end
        for pid in pids:
            if pid in statuses:
                continue
            if late:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                statuses[pid] = None if late else os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


def serve() -> None:
    """Serves one request a line, one answer a line."""
    import torch  # noqa: F401
    import torch_npu  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for rank in range(request["num_ranks"]):
            pid = os.fork()
            if pid == 0:
                _run_rank(request, rank)
            pids.append(pid)
        statuses = _wait(pids, request["deadline_s"])
        outputs = [Path(request["folder"], f"{rank}.txt") for rank in range(len(pids))]
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in outputs]
        rows = zip(pids, statuses, texts, strict=True)
        print(
            json.dumps([{"pid": pid, "status": status, "output": text} for pid, status, text in rows]), flush=True
        )


if __name__ == "__main__":
    serve()
