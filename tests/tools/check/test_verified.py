# SPDX-License-Identifier: Apache-2.0
"""The table of verified classes: what it names is there, and nothing starts without it."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest

from tests.mtp_output import served
from vllm_ascend_ext.tools.check.deployment_class import DIMENSIONS, DeploymentClass
from vllm_ascend_ext.tools.check.verdicts import NAMES
from vllm_ascend_ext.tools.check.verified import ROWS, VerifiedRow, proof_of

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
        ("eplb_load",), "file::test", {"family": ("GQA", "MLA"), "layout": ("TP+EP",), "drafts": ("none", "mtp 3")}
    )
    assert row.holds(SMALL)
    assert row.holds(replace(SMALL, family="MLA", drafts="mtp 3"))
    for dimension in DIMENSIONS:
        assert not row.holds(replace(SMALL, **{dimension: "other"})), dimension


def test_only_the_features_of_a_row_start() -> None:
    assert proof_of("eplb_load", SMALL) is not None
    assert proof_of("eplb_load", replace(SMALL, weights="w8a8 of another kind")) is None
    assert proof_of("attn_scatter", SMALL) is None


def test_pairs_of_the_rows_of_frames_are_run() -> None:
    """Layout, drafts and transfer, of which each row names only what its table of engines has in pairs."""
    tables = {
        "test_frames_are_the_engines_tokens": served.CASES,
        "test_frames_of_a_pipeline": served.PIPELINES,
    }
    for name, table in tables.items():
        classes = {one for case in table.values() for one in _classes(case)}
        rows = [row for row in ROWS if row.test.endswith(f"test_vllm_ascend_served.py::{name}")]
        assert rows
        for row in rows:
            values = [row.values.get(dimension, ("none",)) for dimension in ("layout", "drafts", "transfer")]
            for first, second in combinations(range(3), 2):
                named = set(product(values[first], values[second]))
                assert named <= {(one[first], one[second]) for one in classes}, row


def _classes(case: served.Case) -> set[tuple[str, str, str]]:
    """Layout, drafts and each transfer of a case, in the words of the table."""
    kinds = {
        "DP": case.layout.dp > 1,
        "TP": case.layout.tp > 1,
        "EP": case.expert_parallel and case.layout.num_ranks > case.layout.pp,
        "PP": case.layout.pp > 1,
        "DCP": "decode_context_parallel_size" in case.arguments,
    }
    layout = "+".join(kind for kind, is_there in kinds.items() if is_there) or "1"
    found = set()
    for transfer in (case.transfer or "none").split(", "):
        number = case.part(f"kv_{transfer}").drafts
        method = "mtp" if case.model == "DeepSeek" else "eagle3"
        found.add((layout, f"{method} {number}" if number else "none", transfer))
    return found
