# SPDX-License-Identifier: Apache-2.0
"""Runs a real `vllm serve` in a session of its own: started, watched, killed in parts, ended without a trace."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil

HOST = "127.0.0.1"
MODEL_NAME = "tiny"
SHARED_MEMORY = Path("/dev/shm")
_POLL_S = 0.5
_TAIL_LINES = 40
_FAST_CONFIGURATION = ("--kv-cache-memory-bytes", str(64 << 20), "--max-model-len", "512", "--enforce-eager")

# the command of the issue, without its model
TWO_RANKS: tuple[str, ...] = (
    "--tensor-parallel-size",
    "2",
    "--enable-expert-parallel",
    "--speculative-config",
    json.dumps({"method": "mtp", "num_speculative_tokens": 1}),
    "--additional-config",
    json.dumps({"ascend_ext": {"eplb_load": {"enabled": True}}}),
)


class ServerError(AssertionError):
    """Reports that the server did not do what the test waits for; the message ends with its last output."""


class Server:
    """Runs one `vllm serve` on a free port of the loopback interface.

    Args:
        model: directory of the model.
        arguments: of `vllm serve`, besides host, port and a small, eager configuration.
        folder: where its output goes.
        environment: added to this process's own.
        address: where it listens.
        entering: command line that runs the rest of it elsewhere, as on another host.
        inside: makes the context in which a thread reaches `address`.
    """

    def __init__(
        self,
        model: Path,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        address: str = HOST,
        entering: Sequence[str] = (),
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.port, self.address, self.inside = free_port(), address, inside
        self._log = folder / "server.log"
        self._sockets = tempfile.TemporaryDirectory(prefix="vllm-")  # a socket's path may have 107 characters
        self.shared_memory: set[str] = set()  # names that its processes have had mapped
        command = [
            *(*entering, sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)),
            *("--host", address, "--port", str(self.port), "--served-model-name", MODEL_NAME),
            *_FAST_CONFIGURATION,
            *arguments,
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "VLLM_RPC_BASE_PATH": self._sockets.name, **(environment or {})},
            )

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Returns the process id of the API server, which is also the id of the session."""
        return self._process.pid

    def output(self) -> str:
        """Returns everything that the server's processes have written so far."""
        return self._log.read_text(errors="replace")

    def wait_until_healthy(self, deadline_s: float) -> None:
        """Waits for ``/health``; raises ServerError when the server ends or the deadline passes first."""
        self._wait(lambda: self._process.poll() is not None or self._healthy(), deadline_s, "healthy")
        self._note_shared_memory()
        if self._process.poll() is not None:
            raise self._error(f"ended with status {self._process.returncode} while starting")

    def wait_until_ended(self, deadline_s: float) -> int:
        """Waits for the API server to end by itself and returns its exit status (negative: its signal)."""
        self._wait(lambda: self._process.poll() is not None, deadline_s, "ended")
        return self._process.returncode

    def wait_until_nothing_is_left(self, deadline_s: float) -> None:
        """Waits until no process of the session and none of its shared memory is left."""
        assert self.shared_memory, "a server that never used shared memory proves nothing"
        self._wait(lambda: not self.processes() and not self.left_in_shared_memory(), deadline_s, "gone")

    def processes(self) -> list[psutil.Process]:
        """Returns the living processes of the server's session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue  # it has just ended
        return found

    def workers(self) -> dict[int, int]:
        """Maps ranks to process ids of the workers, from the prefix of their output: ``(Worker_TP1_EP1
        pid=123)``."""
        found = re.findall(r"\(Worker\w*?_TP(\d+)\w* pid=(\d+)\)", self.output())
        return {int(rank): int(pid) for rank, pid in found}

    def engine_core(self) -> int:
        """Process id of the engine core."""
        found = re.search(r"\(EngineCore\w* pid=(\d+)\)", self.output())
        if found is None:
            raise self._error("shows no engine core")
        return int(found[1])

    def left_in_shared_memory(self) -> set[str]:
        """Returns what still exists of the shared memory that the server's processes have had mapped.

        A new name in ``/dev/shm`` alone proves nothing: other programs come and go on the same machine.
        """
        return self.shared_memory & {path.name for path in SHARED_MEMORY.iterdir()}

    def stop(self, deadline_s: float = 30) -> None:
        """Ends the server as an operator does (SIGTERM), and by force when the deadline passes."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        end = time.monotonic() + deadline_s
        while self.processes() and time.monotonic() < end:
            time.sleep(_POLL_S)
        for process in self.processes():
            process.kill()
        self._process.wait(timeout=10)
        self._sockets.cleanup()

    def get(self, path: str, timeout_s: float = 10) -> tuple[int, str]:
        """Status and body of ``GET path``."""
        return self.ask("GET", path, timeout_s=timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
    ) -> tuple[int, str]:
        """Status and body of a request, whose own body is JSON."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout_s)
        data = None if body is None else json.dumps(body)
        try:
            with self.inside():
                connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def _healthy(self) -> bool:
        try:
            return self.get("/health", timeout_s=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _wait(self, condition: Callable[[], bool], deadline_s: float, wanted: str) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            self._note_shared_memory()
            if time.monotonic() >= end:
                left = [f"{process.pid} {process.name()}" for process in self.processes()]
                raise self._error(
                    f"not {wanted} after {deadline_s:g} s; processes: {left}; "
                    f"shared memory: {sorted(self.left_in_shared_memory())}"
                )
            time.sleep(_POLL_S)

    def _note_shared_memory(self) -> None:
        for process in self.processes():
            try:
                maps = Path(f"/proc/{process.pid}/maps").read_text()
            except OSError:
                continue  # it has just ended
            self.shared_memory |= set(re.findall(rf" {SHARED_MEMORY}/(\S+)", maps))

    def _error(self, problem: str) -> ServerError:
        tail = "\n".join(f"  | {line}" for line in self.output().splitlines()[-_TAIL_LINES:])
        return ServerError(f"vllm serve {problem}\n{tail}")


def free_port() -> int:
    """Returns a port of the loopback interface at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
