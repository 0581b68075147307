# SPDX-License-Identifier: Apache-2.0
"""Where things are in the checkout, and errors that name the command which mends them. Standard library only."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "emulator"
CACHE = ROOT / ".cache" / "emulator"
BASE_ENVIRONMENT = ROOT / ".venv"
NPU_ENVIRONMENT = ROOT / ".venv-npu"
SETUP = "./scripts/setup_npu.sh"


class EmulatorError(RuntimeError):
    """The emulator cannot be built or started; the message says what, why and what to do."""


def torch_folder() -> Path:
    """The torch package that libopapi is built against: .venv's."""
    found = sorted(BASE_ENVIRONMENT.glob("lib/python3*/site-packages/torch"))
    if not found:
        raise EmulatorError(f"no torch in {BASE_ENVIRONMENT}: run {SETUP} in {ROOT}")
    return found[-1]


def check_environments() -> None:
    """Raise unless both virtual environments are complete."""
    for environment in (BASE_ENVIRONMENT, NPU_ENVIRONMENT):
        if not (environment / "ascend-ext.stamp").is_file():
            raise EmulatorError(f"{environment} is missing or incomplete: run {SETUP} in {ROOT}")
