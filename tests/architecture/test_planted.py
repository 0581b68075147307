# SPDX-License-Identifier: Apache-2.0
"""A violation of every rule, planted into a copy of this checkout, is found where it was planted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.architecture.plants import Plant
from tests.architecture.registry import PLANTS, RULES
from tests.architecture.tree import ROOT, Tree

RULE_OF = {rule.name: rule for rule in RULES}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of every file that the rules read."""
    root = tmp_path_factory.mktemp("checkout")
    for path in Tree(ROOT).paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, root / path)
    return root


@contextmanager
def _planted(root: Path, plant: Plant) -> Iterator[Tree]:
    before = {path: (root / path).read_text() if (root / path).exists() else None for path in plant.changes}
    new_folders = [folder for path in plant.changes if not (folder := (root / path).parent).exists()]
    try:
        for path, change in plant.changes.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(change(before[path] or ""))
        yield Tree(root)
    finally:
        for path, text in before.items():
            if text is None:
                (root / path).unlink()
            else:
                (root / path).write_text(text)
        for folder in new_folders:
            shutil.rmtree(folder)


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_planted_violation_is_found(copy: Path, plant: Plant) -> None:
    with _planted(copy, plant) as tree:
        found = list(RULE_OF[plant.rule].find(tree))
    assert any(violation.startswith(f"{plant.place}:") and plant.says in violation for violation in found), found


def test_the_copy_without_plants_keeps_every_rule(copy: Path) -> None:
    assert [violation for rule in RULES for violation in rule.find(Tree(copy))] == []


def test_every_rule_has_a_plant() -> None:
    assert {plant.rule for plant in PLANTS} == set(RULE_OF)
