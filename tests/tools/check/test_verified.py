# SPDX-License-Identifier: Apache-2.0
"""The table of verified classes: what it names is there, and nothing starts without it."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_ascend_ext.tools.check.deployment_class import DIMENSIONS, DeploymentClass
from vllm_ascend_ext.tools.check.verdicts import NAMES
from vllm_ascend_ext.tools.check.verified import ANY, ROWS, VerifiedRow, proof_of

ROOT = Path(__file__).resolve().parents[3]
SMALL = DeploymentClass("GQA", "eager", "ALLGATHER", "unquantised", "TP+EP", "none", "none", "none")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.test)
def test_a_row_names_a_test_on_the_emulator(row: VerifiedRow) -> None:
    file, _, name = row.test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name.startswith("test_")
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "pytest.mark.emulator" in ast.unparse(tree), "not a test on the emulator"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.test)
def test_a_row_has_known_words_only(row: VerifiedRow) -> None:
    assert set(row.features) <= set(NAMES)
    assert {"family", "layout"} <= set(row.values) <= set(DIMENSIONS)
    assert all(isinstance(values, tuple) and values for values in row.values.values()), "a text is no tuple"


def test_a_class_is_verified_by_all_of_its_values() -> None:
    row = VerifiedRow(
        ("eplb_load",), "file::test", {"family": ("GQA", "MLA"), "layout": ("TP+EP",), "drafts": ANY}
    )
    assert row.holds(SMALL)
    assert row.holds(replace(SMALL, family="MLA", drafts="mtp 3"))
    for dimension in set(DIMENSIONS) - {"drafts"}:
        assert not row.holds(replace(SMALL, **{dimension: "other"})), dimension


def test_only_the_features_of_a_row_start() -> None:
    assert proof_of("eplb_load", SMALL) is not None
    assert proof_of("eplb_load", replace(SMALL, weights="w8a8 of another kind")) is None
    assert proof_of("attn_scatter", SMALL) is None
