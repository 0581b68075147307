# SPDX-License-Identifier: Apache-2.0
"""Keeps what came of a suite as a JSON file: for each test file counts and reasons. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .processes import FileResult

KINDS = ("passed", "failed", "skipped", "xfailed")


def summary(result: FileResult) -> dict[str, Any]:
    """Returns the counts of a file and, for what failed or was skipped, the reasons with their numbers."""
    counts = Counter(result.outcomes.values())
    found: dict[str, Any] = {kind: counts[kind] for kind in KINDS if counts[kind]}
    for kind in ("failed", "skipped"):
        reasons = Counter(why for test, why in result.why.items() if result.outcomes[test] == kind)
        if reasons:
            found[f"why_{kind}"] = dict(sorted(reasons.items()))
    if result.reports:
        found["race_reports"] = len(result.reports)
    return found


def line(found: dict[str, Any]) -> str:
    """Returns a summary in a few words."""
    return ", ".join(f"{found[kind]} {kind}" for kind in KINDS if kind in found) or "no test"


def read(path: Path) -> dict[str, Any]:
    """Returns the content of a result file; an empty one where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"files": {}}


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a result file: files in order, so that two runs differ in what changed only."""
    content["files"] = dict(sorted(content["files"].items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
