# SPDX-License-Identifier: Apache-2.0
"""Lists what the emulator runs on: pairs of torch and torch_npu, machines. Standard library only."""

from __future__ import annotations

import platform

from .places import EmulatorError

# torch -> the versions of torch_npu that tests have run with it
PAIRS = {
    "2.13.0": ("2.13.0",),
}
# processor -> what the emulator does not do there
MACHINES = {
    "x86_64": "",
    "aarch64": "unverified; the guard of pinned memory does not know what an instruction touches: it sees the "
    "byte that faults and no other, and a page stays open after a touch beside a copy, so that races of the host "
    "with small copies are missed",
}


def check_pair(torch: str, torch_npu: str) -> None:
    """Raises unless the two versions are one of PAIRS; a local part of torch's (``+cpu``) does not matter."""
    if torch_npu not in PAIRS.get(torch.partition("+")[0], ()):
        pairs = ", ".join(f"torch {own} with torch_npu {npu}" for own, npus in PAIRS.items() for npu in npus)
        raise EmulatorError(f"torch {torch} with torch_npu {torch_npu} is not supported; supported are: {pairs}")


def machine() -> str:
    """Returns this processor, with what does not work on it; raises where the libraries are not written for it."""
    if (name := platform.machine()) not in MACHINES:
        raise EmulatorError(f"the processor {name} is not supported; supported are: {', '.join(MACHINES)}")
    return f"{name}: {MACHINES[name]}" if MACHINES[name] else name
