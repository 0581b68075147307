# SPDX-License-Identifier: Apache-2.0
"""Lists what the emulator runs on: pairs of torch and torch_npu, machines. Standard library only."""

from __future__ import annotations

import platform

from .places import EmulatorError

# torch -> the versions of torch_npu that tests have run with it
PAIRS = {
    "2.10.0": ("2.10.0.post4",),
    "2.13.0": ("2.13.0",),
    "2.14.0": ("2.14.0",),
}
MACHINES = ("x86_64", "aarch64")


def check_pair(torch: str, torch_npu: str) -> None:
    """Raises unless the two versions are one of PAIRS; a local part of torch's (``+cpu``) does not matter."""
    if torch_npu not in PAIRS.get(torch.partition("+")[0], ()):
        pairs = ", ".join(f"torch {own} with torch_npu {npu}" for own, npus in PAIRS.items() for npu in npus)
        raise EmulatorError(f"torch {torch} with torch_npu {torch_npu} is not supported; supported are: {pairs}")


def check_machine() -> None:
    """Raises on a processor for which the libraries are not written."""
    if (machine := platform.machine()) not in MACHINES:
        raise EmulatorError(f"the processor {machine} is not supported; supported are: {', '.join(MACHINES)}")
