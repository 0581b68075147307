# SPDX-License-Identifier: Apache-2.0
"""Builds the C++ of this checkout for the host, once a checkout, by whichever test process comes first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "host"
DEADLINE_S = 600


def host_library(target: str) -> Path:
    """Returns the library of a CMake target, built as `build_host` says."""
    return build_host(target) / f"lib{target}.so"


def build_host(target: str) -> Path:
    """Returns the folder of a CMake target, built or brought up to date; other processes wait meanwhile.

    Raises:
        AssertionError: CMake or the compiler failed; the message is their output.
        filelock.Timeout: another process has been building for longer than any build takes.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "ASCEND_HOME_PATH"}
    with FileLock(BUILD / "lock", timeout=DEADLINE_S):
        configure = ["-S", ROOT, "-B", BUILD, f"-DPython3_EXECUTABLE={sys.executable}"]
        for arguments in (configure, ["--build", BUILD, "--parallel", "2", "--target", target]):
            command = ["cmake", *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=environment)
            assert done.returncode == 0, done.stdout + done.stderr
    return BUILD
