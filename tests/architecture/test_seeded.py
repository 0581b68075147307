# SPDX-License-Identifier: Apache-2.0
"""Each rule finds seeded bugs in short sources and small checkouts, and lets their mended likes pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architecture.seeded import ALLOWED, SEEDED, SEEDED_TREES
from tests.architecture.tree import FileCheck, Tree


@pytest.mark.parametrize(("rule", "path", "source"), SEEDED)
def test_seeded_bug_is_found(rule: FileCheck, path: str, source: str) -> None:
    found = list(rule(path, source))
    assert found and all(violation.startswith(f"{path}:") for violation in found)


@pytest.mark.parametrize(("rule", "path", "source"), ALLOWED)
def test_allowed_code_passes(rule: FileCheck, path: str, source: str) -> None:
    assert not list(rule(path, source))


def _tree(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


@pytest.mark.parametrize(("rule", "bad", "good"), SEEDED_TREES, ids=[row[0].__name__ for row in SEEDED_TREES])
def test_seeded_trees(
    rule: Callable[[Tree], Iterator[str]], bad: list[dict[str, str]], good: list[dict[str, str]], tmp_path: Path
) -> None:
    for number, files in enumerate(bad):
        assert list(rule(_tree(tmp_path / f"bad{number}", files))), files
    for number, files in enumerate(good):
        assert not list(rule(_tree(tmp_path / f"good{number}", files))), files
