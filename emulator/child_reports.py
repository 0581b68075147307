# SPDX-License-Identifier: Apache-2.0
"""Reads race reports of other processes, from the folder that EMULATOR_RACE_LOG names. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


class ChildReports:
    """Collects what processes other than this one have written since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}  # bytes seen of each file

    def take(self) -> list[str]:
        """Returns one text for each process with something new."""
        texts = []
        for path in sorted(self._folder.glob("*.txt")):
            if path.stem == str(os.getpid()):
                continue
            content = path.read_bytes()
            begin = self._read.get(path.name, 0)
            self._read[path.name] = len(content)
            if new := content[begin:].decode(errors="replace").strip():
                texts.append(f"process {path.stem}:\n{new}")
        return texts
