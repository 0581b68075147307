# SPDX-License-Identifier: Apache-2.0
"""The reports in docs/upstream/races: each program shows its race, prints what its page says, and mended it does
not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, fences, name_of
from tests.support.long_tables import long_table

PAGES = sorted(path for path in (ROOT / "docs/upstream/races").glob("*.md") if path.name != "index.md")
RACE_STATUS, DEADLINE_S = 66, 300
CHANGING = (r"process \d+", r"0x[0-9a-f]+", r"site-packages/")


def normal(report: str) -> str:
    """Returns a report on one line, without what is otherwise in each run."""
    for pattern in CHANGING:
        report = re.sub(pattern, "", report)
    return " ".join(report.split())


def program_and_output(page: Path) -> tuple[str, str]:
    found = list(fences(name_of(page), page.read_text(encoding="utf-8")))
    (at,) = (number for number, fence in enumerate(found) if fence.language == "python")
    return found[at].text, found[at + 1].text


def run(folder: Path, *arguments: str, num_ranks: int) -> subprocess.CompletedProcess[str]:
    command = ["torchrun", "--nproc-per-node", "2"] if num_ranks == 2 else ["python"]
    return subprocess.run(
        [*command, "program.py", *arguments], cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S
    )


def test_every_race_has_a_page() -> None:
    listed = (ROOT / "docs/upstream/races/index.md").read_text(encoding="utf-8")
    assert len(PAGES) == 8 and all(f"({page.name})" in listed for page in PAGES)


@pytest.mark.emulator
@long_table
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_program_shows_its_race_and_mended_does_not(page: Path, tmp_path: Path, race_reports: object) -> None:
    program, output = program_and_output(page)
    (tmp_path / "program.py").write_text(program)
    num_ranks = 2 if "init_process_group" in program else 1
    wrong = run(tmp_path, num_ranks=num_ranks)
    assert wrong.returncode == RACE_STATUS or num_ranks == 2 and wrong.returncode, wrong.stderr
    assert normal(output) in normal(wrong.stderr), wrong.stderr
    race_reports.take()  # type: ignore[attr-defined]
    mended = run(tmp_path, "mended", num_ranks=num_ranks)
    assert mended.returncode == 0 and "[emulator] race" not in mended.stderr, mended.stderr
