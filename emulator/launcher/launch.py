# SPDX-License-Identifier: Apache-2.0
"""Starts programs on the emulator. Standard library only: it runs before any environment is set up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import build, environment
from .places import PLACES, EmulatorError


def prepare() -> dict[str, str]:
    """Builds if need be, and keeps the build; returns the environment of a process on the emulator."""
    if found := environment.real_cann(os.environ):
        raise EmulatorError(
            f"a real CANN or NPU is here ({found}), and the emulator must not come before it; "
            "use the device, or a shell and container without it"
        )
    PLACES.check()
    libraries = build.ensure_built()
    build.hold(libraries.parent)
    return environment.emulator_variables(environment.settings(os.environ), libraries)


def run(command: Sequence[str]) -> NoReturn:
    """Becomes ``command`` on the emulator; ``python`` is the environment's, in a checkout .venv-npu's."""
    variables = prepare()
    program = shutil.which(command[0], path=variables["PATH"])
    if program is None:
        raise EmulatorError(f"{command[0]} not found, neither in {PLACES.npu.commands} nor on PATH")
    os.execve(program, list(command), variables)


def build_only() -> Path:
    """Builds if need be; returns the folder of the libraries."""
    PLACES.check()
    return build.ensure_built()
