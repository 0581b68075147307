# SPDX-License-Identifier: Apache-2.0
"""Holds this checkout to every rule of the registry."""

from __future__ import annotations

import pytest

from tests.architecture.registry import RULES
from tests.architecture.tree import ROOT, Rule, Tree

TREE = Tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_this_checkout_keeps(rule: Rule) -> None:
    violations = list(rule.find(TREE))
    assert not violations, "\n".join(violations)


def test_rules_have_names_of_their_own() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "tree", ["vllm_ascend_ext", "emulator", "csrc_channel", "csrc_ascendc", "tests", "benchmarks", "scripts"]
)
def test_every_part_of_the_checkout_is_read(tree: str) -> None:
    assert len(list(TREE.files(under=tree))) >= 10
