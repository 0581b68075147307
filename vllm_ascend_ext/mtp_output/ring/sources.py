# SPDX-License-Identifier: Apache-2.0
"""Tells the C++ module's sources apart, so that one which was built from others is not used by mistake.

Standard library only: setup.py imports it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(folder: Path) -> str:
    """Returns the digest of the C++ files in `folder`; CMakeLists.txt computes the same."""
    lines = [
        f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(folder.iterdir())
        if path.suffix in (".cpp", ".h")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
