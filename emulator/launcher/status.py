# SPDX-License-Identifier: Apache-2.0
"""Implements the command ``status``: what is there, and what is missing. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable

from . import build, environment, supported
from .places import PLACES, EmulatorError


def _environments() -> str:
    PLACES.check()
    return "complete"


def _version(name: str) -> str:
    place = PLACES.torch if name == "torch" else PLACES.npu
    return build.package_version(place.package(name))


def _pair() -> str:
    supported.check_pair(_version("torch"), _version("torch_npu"))
    return "supported"


def _libraries() -> str:
    folder = build.library_folder(build.toolchain().versions)
    return str(folder) if folder.is_dir() else "to be built at the first run"


def _cann() -> str:
    if found := environment.real_cann(os.environ):
        raise EmulatorError(f"here ({found}): the emulator does not start")
    return "none"


CHECKS: dict[str, Callable[[], str]] = {
    "environments": _environments,
    "torch": lambda: _version("torch"),
    "torch_npu": lambda: _version("torch_npu"),
    "torch with torch_npu": _pair,
    "processor": supported.machine,
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
