# SPDX-License-Identifier: Apache-2.0
"""Records, as a pytest plug-in in the process that runs a file of a suite, each test as it starts and ends.

One JSON line an event, written at once, so that what a process has done is known when it dies.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from .processes import DONE, LOG

ENVIRONMENT = ("torch", "torch_npu", "vllm", "vllm-ascend")  # packages whose versions are recorded


class Recorder:
    """Writes the events of one process: what it has found, and the outcome and reason of every test."""

    def __init__(self, log: Path, done: frozenset[str]) -> None:
        self._log = log
        self._done = done
        self._outcome: dict[str, str] = {}

    def write(self, **event: object) -> None:
        """Appends one event."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": time.time()}) + "\n")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves out what earlier processes have run."""
        items[:] = [item for item in items if item.nodeid not in self._done]
        self.write(event="found", tests=[item.nodeid for item in items], versions=_versions())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Takes a file that cannot be read for one test that fails, or is skipped."""
        if not report.passed:
            outcome = "skipped" if report.skipped else "failed"
            self.write(event="end", test=report.nodeid, outcome=outcome, text=_text(report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(event="start", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the first outcome of a test that is not "passed"."""
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        if self._outcome.get(report.nodeid, "passed") == "passed":
            self._outcome[report.nodeid] = outcome
            if outcome != "passed":
                self.write(event="end", test=report.nodeid, outcome=outcome, text=_text(report))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Ends a test that has passed, and the process where the device has failed: later results would mean
        nothing."""
        result = yield
        if self._outcome.get(item.nodeid) == "passed":
            self.write(event="end", test=item.nodeid, outcome="passed", text="")
        if failure := _device_failure():
            self.write(event="device", test=item.nodeid, text=failure)
            os._exit(70)
        return result


def _versions() -> dict[str, str]:
    """Returns the versions of what the file has imported."""
    found = {}
    for name in (name for name in ENVIRONMENT if name.replace("-", "_") in sys.modules):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _device_failure() -> str:
    torch = sys.modules.get("torch")
    if "torch_npu" not in sys.modules or torch is None or not torch.npu.is_initialized():
        return ""
    from .. import races

    return races.failure()


def _text(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Returns the last of what a report says: the exception and the lines before it."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext[-4000:]


def pytest_configure(config: pytest.Config) -> None:
    done = Path(os.environ[DONE])
    names = frozenset(done.read_text(encoding="utf-8").splitlines()) if done.is_file() else frozenset()
    config.pluginmanager.register(Recorder(Path(os.environ[LOG]), names), "emulator-peers-recorder")
