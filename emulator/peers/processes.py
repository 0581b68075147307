# SPDX-License-Identifier: Apache-2.0
"""Runs the files of a suite: each in a process of its own, and what one leaves when it dies in another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..launcher.places import PACKAGE, EmulatorError
from .reasons import reason
from .suites import Suite

LOG = "EMULATOR_PEERS_LOG"  # the file of events that `recorder` writes
DONE = "EMULATOR_PEERS_DONE"  # a file with the names of tests that earlier processes have run, a line each
RECORDER = f"{PACKAGE}.peers.recorder"

POLL_S = 0.2
NO_TESTS = 5  # pytest's status
COLLECTION_S = 300.0  # until the first test starts, imports included


@dataclass
class FileResult:
    """Holds what came of one file. outcomes: test -> "passed", "failed", "skipped", "xfailed"; why: test ->
    reason; reports: heads of the race reports; versions: of the packages it ran with."""

    outcomes: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def end(self, test: str, outcome: str, text: str = "") -> None:
        """Notes the outcome of a test."""
        self.outcomes[test] = outcome
        if outcome in ("failed", "skipped"):
            self.why[test] = reason(text)


class _Log:
    """Reads the events of a process while it writes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.found: list[str] = []
        self.running = ""

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields whole events that have come since the last call."""
        if not self._path.is_file():
            return
        text = self._path.read_bytes()[self._read :]
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)

    def take(self, result: FileResult) -> float | None:
        """Puts new events into ``result``; returns when the last of them was written."""
        last = None
        for event in self.events():
            test = event.get("test", "")
            last = float(event["time"])
            if event["event"] == "found":
                self.found = list(event["tests"])
                result.versions = dict(event["versions"])
            elif event["event"] == "start":
                self.running = test
            elif event["event"] == "device":
                result.end(test, "failed", f"E   the device failed: {event['text']}")
            else:
                result.end(test, event["outcome"], event["text"])
                self.running = ""
        return last


class Runner:
    """Runs files one after the other, each in a process of its own that is forked from one with the imports."""

    def __init__(self, folder: Path, variables: Mapping[str, str], suite: Suite, python: str) -> None:
        self._folder, self._suite = folder, suite
        self._scratch = tempfile.TemporaryDirectory(prefix="emulator-peers-")
        self._races = Path(self._scratch.name, "races")
        self._races.mkdir()
        self._forks = subprocess.Popen(
            [python, "-m", f"{PACKAGE}.peers.forks", *suite.preloads],
            cwd=folder,
            env={**variables, "EMULATOR_RACE_LOG": str(self._races)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def close(self) -> None:
        """Ends the process that the others are forked from."""
        self._forks.kill()
        self._forks.communicate()
        self._scratch.cleanup()

    def run(self, file: str) -> FileResult:
        """Runs all tests of ``file``.

        A test that outlives the suite's deadline or takes its process with it fails; the others run in the next
        process.
        """
        result = FileResult()
        begin = time.monotonic()
        while True:
            before = len(result.outcomes)
            if self._run_process(file, result) or len(result.outcomes) == before:
                break  # nothing is left, or it died between tests, as the next one would
        result.seconds = time.monotonic() - begin
        return result

    def _run_process(self, file: str, result: FileResult) -> bool:
        """Runs what is left of a file in one process; returns whether nothing is left after it."""
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as name:
            place = Path(name)
            done, log, output = place / "done", _Log(place / "log"), place / "output"
            done.write_text("\n".join(result.outcomes), encoding="utf-8")
            environ = {LOG: str(place / "log"), DONE: str(done)}
            arguments = ["-q", "-rN", "-p", RECORDER, "-p", "no:cacheprovider", file]
            order = {
                "folder": str(self._folder),
                "environ": environ,
                "output": str(output),
                "arguments": arguments,
            }
            child, code, is_late = self._order(order, log, result)
            log.take(result)
            result.reports += _race_heads(self._races)
            tail = output.read_bytes()[-6000:].decode(errors="replace")
        return _close(code, is_late, log, tail, file, result)

    def _order(self, order: dict[str, Any], log: _Log, result: FileResult) -> tuple[int, int, bool]:
        """Has a process started and waits for it; returns its number, its status, and whether a test was late."""
        assert self._forks.stdin and self._forks.stdout
        self._forks.stdin.write(json.dumps(order) + "\n")
        child = int(self._answer())
        last, allowed_s, is_late = time.time(), COLLECTION_S, False
        while not select.select([self._forks.stdout], [], [], POLL_S)[0]:
            if (written := log.take(result)) is not None:
                last, allowed_s = written, self._suite.deadline_s
            if time.time() - last > allowed_s and not is_late:
                is_late = True
                _end(child)
        code = int(self._answer())
        _end(child)
        return child, code, is_late

    def _answer(self) -> str:
        assert self._forks.stdout
        line = self._forks.stdout.readline()
        if not line:
            raise EmulatorError(f"the process that starts those of {self._suite.name} has ended: see above")
        return line


def _end(process: int) -> None:
    """Ends a process and those that it has started and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _close(code: int, late: bool, log: _Log, tail: str, file: str, result: FileResult) -> bool:
    """Notes what the end of a process says of the test that ran; returns whether no test is left."""
    left = [test for test in log.found if test not in result.outcomes]
    if late or code not in (0, 1, 2, 5, 66, 70):
        words = "E   deadline" if late else f"{tail}\nE   the process ended with status {code}"
        result.end(log.running or file, "failed", words if log.running or late else f"{tail}\n{words}")
    elif not log.found and not result.outcomes:
        words = "the suite: a file without a test" if code == NO_TESTS else f"no test was found, status {code}"
        result.end(file, "failed", f"{tail}\nE   {words}")
    return not left


def _race_heads(folder: Path) -> list[str]:
    """Takes the race reports out of ``folder``; returns the first line of each, without its number and process."""
    heads = []
    for path in sorted(folder.iterdir()):
        lines = path.read_text(errors="replace").splitlines() if path.suffix == ".txt" else []
        heads += [line.partition(": ")[2] for line in lines if line.startswith("[emulator] race")]
        path.unlink()
    return heads
