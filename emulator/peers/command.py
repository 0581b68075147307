# SPDX-License-Identifier: Apache-2.0
"""Implements ``peers``: runs a suite of another project, from a checkout, and writes what came of it."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..launcher import launch
from ..launcher.places import PLACES, SOURCES, EmulatorError
from . import covered, models, results
from .processes import FileResult, Runner
from .suites import Suite


@dataclass(frozen=True, slots=True)
class Choice:
    """Says how a suite is run. only: parts of the names of files, none for all. again: also files whose results
    are there. jobs: files at a time. packages: a folder of packages beside the environment's."""

    only: Sequence[str] = ()
    again: bool = False
    jobs: int = 1
    packages: Path | None = None


def run_suite(suite: Suite, folder: Path, output: Path, choice: Choice) -> int:
    """Runs the files of ``suite`` in the checkout ``folder``; returns how many tests failed.

    Each file's result is in ``output`` as soon as it has run. Raises EmulatorError where there is none.
    """
    content = results.read(output)
    all_files = suite.files(folder)
    content["files_of_suite"] = len(all_files)
    if suite.of_tables:
        all_files = covered.of_tables(folder, all_files, covered.operators_of_tables())
        content["files_of_tables"] = len(all_files)
    files = [file for file in all_files if any(part in file for part in choice.only or [""])]
    if not files:
        raise EmulatorError(f"no file of {suite.name} in {folder}: is it a checkout of {suite.source}?")
    files = [file for file in files if choice.again or file not in content["files"]]
    waiting, lock, failed = list(reversed(files)), threading.Lock(), 0
    with tempfile.TemporaryDirectory(prefix="emulator-peers-") as scratch, ThreadPoolExecutor(choice.jobs) as pool:
        variables = process_variables(launch.prepare(), Path(scratch), choice.packages)
        variables.setdefault("EMULATOR_MEMORY_MIB", str(suite.memory_mib))

        def run_some() -> int:
            failed = 0
            with contextlib.closing(Runner(folder, variables, suite, str(PLACES.npu.python))) as runner:
                while waiting:
                    file = waiting.pop()
                    result = runner.run(file)
                    with lock:
                        failed += _keep(suite, file, result, content, output)
            return failed

        for job in [pool.submit(run_some) for _ in range(min(choice.jobs, len(files)))]:
            failed += job.result()
    return failed


def _keep(suite: Suite, file: str, result: FileResult, content: dict[str, Any], output: Path) -> int:
    """Puts the result of one file into ``output``, and prints it; returns how many of its tests failed."""
    content |= {"suite": suite.name, "title": suite.title, "source": suite.source}
    content["versions"] = {**content.get("versions", {}), **result.versions}
    content["files"][file] = found = {"commit": commit(), **results.summary(result)}
    results.write(output, content)
    print(f"{result.seconds:6.1f} s  {results.line(found)}  {file}", flush=True)
    return int(found.get("failed", 0))


@functools.cache
def commit(sources: Path = SOURCES) -> str:
    """Returns the commit of the emulator that runs, with "+" behind it where files differ from it; "" outside a
    checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(sources), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=7", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def process_variables(variables: Mapping[str, str], scratch: Path, packages: Path | None) -> dict[str, str]:
    """Returns the environment of a suite's processes, for which it puts two things into ``scratch``.

    One is an npu-smi that only succeeds: vllm-ascend's conftest.py asks it whether to put mocks in place of
    torch_npu. The other is a cache with the configurations of models, for no hub is asked.
    """
    models.write_hub_cache(scratch / "hub")
    smi = scratch / "npu-smi"
    smi.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    smi.chmod(0o755)
    folders = [str(SOURCES.parent), *([str(packages)] if packages else []), variables.get("PYTHONPATH", "")]
    paths = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(scratch / "hub"),
        "PATH": os.pathsep.join([str(scratch), variables["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }
    return {**variables, **paths}
