# SPDX-License-Identifier: Apache-2.0
"""Finds things in the checkout, and raises errors that name the command which mends them. Standard library
only."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "emulator"
CACHE = ROOT / ".cache" / "emulator"
BASE_ENVIRONMENT = ROOT / ".venv"
# the second pair of vLLM and vllm-ascend is in .venv-npu-030 (scripts/second_pair/setup.sh)
NPU_ENVIRONMENT = ROOT / os.environ.get("EMULATOR_ENVIRONMENT", ".venv-npu")
SETUP = "./scripts/setup_npu.sh"


class EmulatorError(RuntimeError):
    """Reports that the emulator cannot be built or started; the message says what, why and what to do."""


def package_folder(environment: Path, name: str) -> Path:
    """Returns the installed package that libraries are built against: .venv's torch, .venv-npu's torch_npu."""
    found = sorted(environment.glob(f"lib/python3*/site-packages/{name}"))
    if not found:
        raise EmulatorError(f"no {name} in {environment}: run {SETUP} in {ROOT}")
    return found[-1]


def check_environments() -> None:
    """Raises unless both virtual environments are complete."""
    for environment in (BASE_ENVIRONMENT, NPU_ENVIRONMENT):
        if not (environment / "ascend-ext.stamp").is_file():
            raise EmulatorError(f"{environment} is missing or incomplete: run {SETUP} in {ROOT}")
