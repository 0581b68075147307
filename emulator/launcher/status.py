# SPDX-License-Identifier: Apache-2.0
"""Implements ``python -m emulator status``: what is there, and what is missing. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable

from emulator.launcher import build, environment
from emulator.launcher.checkout import (
    BASE_ENVIRONMENT,
    NPU_ENVIRONMENT,
    EmulatorError,
    check_environments,
    package_folder,
)


def _environments() -> str:
    check_environments()
    return "complete"


def _libraries() -> str:
    folder = build.library_folder(build.toolchain().versions)
    return str(folder) if folder.is_dir() else "to be built at the first run"


def _cann() -> str:
    if found := environment.real_cann(os.environ):
        raise EmulatorError(f"here ({found}): the emulator does not start")
    return "none"


CHECKS: dict[str, Callable[[], str]] = {
    "environments": _environments,
    "torch": lambda: build.package_version(package_folder(BASE_ENVIRONMENT, "torch")),
    "torch_npu": lambda: build.package_version(package_folder(NPU_ENVIRONMENT, "torch_npu")),
    "compiler": lambda: build.compiler_version(build.compiler()),
    "cmake": lambda: build.tool("cmake", "is built with CMake"),
    "ninja": lambda: build.tool("ninja", "is built with Ninja"),
    "libraries": _libraries,
    "real CANN or NPU": _cann,
}


def show() -> int:
    """Prints every check; returns 1 when one fails."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            print(f"{name}: {check()}")
        except EmulatorError as error:
            failed = 1
            print(f"{name}: PROBLEM: {error}")
    return failed
