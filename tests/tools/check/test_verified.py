# SPDX-License-Identifier: Apache-2.0
"""The table of verified classes: what it names is there, and nothing starts without it."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest

from tests.engine import pairs
from tests.mtp_output import served
from vllm_ascend_ext.integration.upstream.versions import PAIR_0_23, PAIR_0_30
from vllm_ascend_ext.tools.check.deployment_class import DIMENSIONS, DeploymentClass
from vllm_ascend_ext.tools.check.verdicts import NAMES
from vllm_ascend_ext.tools.check.verified.proof import proof_of
from vllm_ascend_ext.tools.check.verified.row import VerifiedRow
from vllm_ascend_ext.tools.check.verified.rows import ROWS, rows_of

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


def row_of(test: str, **values: tuple[str, ...]) -> VerifiedRow:
    return VerifiedRow(("eplb_load",), test, {"family": ("GQA",), "layout": ("TP+EP",)} | values)


def test_a_class_is_verified_by_pairs_of_its_values() -> None:
    served = replace(SMALL, graphs="FULL_DECODE_ONLY", weights="w8a8", drafts="mtp 3")
    rows = [
        row_of("graphs", graphs=("FULL_DECODE_ONLY",), weights=("w8a8",)),
        row_of("drafts", graphs=("FULL_DECODE_ONLY",), drafts=("mtp 3",)),
    ]
    assert proof_of("eplb_load", served, rows).lacks == ("w8a8 with mtp 3",)
    rows.append(row_of("quantised", weights=("w8a8", "w4a8"), drafts=("mtp 3",)))
    proof = proof_of("eplb_load", served, rows)
    assert proof.is_verified and set(proof.tests) == {"graphs", "drafts", "quantised"}
    assert proof_of("eplb_load", served, [*rows, row_of("nothing new")]).tests == proof.tests
    for dimension in DIMENSIONS:
        lacks = proof_of("eplb_load", replace(served, **{dimension: "other"}), rows).lacks
        assert lacks == ("other",), dimension  # what it is not together with goes without saying
    assert proof_of("eplb_load", replace(served, weights="ascend"), rows).lacks == ("FULL_DECODE_ONLY with w4a8",)


def test_each_way_of_a_dispatch_meets_the_rest() -> None:
    """Steps of an A2's 16 ranks are gathered or travel by MC2, as they do elsewhere; that they take turns is one
    more thing to run."""
    both = replace(SMALL, dispatch="MC2, ALLGATHER", drafts="mtp 3")
    rows = [
        row_of("gathered", drafts=("mtp 3",)),
        row_of("sent", drafts=("mtp 3",), dispatch=("MC2, ALLTOALL",)),
    ]
    assert proof_of("eplb_load", both, rows).lacks == ("MC2, ALLGATHER",)
    rows.append(row_of("in turns", dispatch=("MC2, ALLGATHER",)))
    assert proof_of("eplb_load", both, rows).is_verified
    assert proof_of("eplb_load", both, rows[1:]).lacks == ("ALLGATHER with mtp 3",)


def test_only_what_meets_in_a_feature_is_needed_in_pairs() -> None:
    rows = [
        replace(row, features=("mtp_output",))
        for row in (row_of("a", weights=("w8a8",)), row_of("b", drafts=("mtp 1",)), row_of("c", layout=("TP",)))
    ]
    drafts = replace(SMALL, drafts="mtp 1")
    assert proof_of("mtp_output", replace(drafts, weights="w8a8"), rows).is_verified
    assert proof_of("mtp_output", replace(drafts, layout="TP"), rows).lacks == ("TP with mtp 1",)


def test_only_the_features_of_a_row_start() -> None:
    rows = rows_of(PAIR_0_23)
    assert proof_of("eplb_load", SMALL, rows).is_verified
    assert proof_of("eplb_load", replace(SMALL, weights="w8a8 of another kind"), rows).lacks
    assert proof_of("dp_gather", SMALL, rows).lacks


def test_a_pair_starts_what_has_run_with_it_alone() -> None:
    assert set(rows_of(PAIR_0_23)) | set(rows_of(PAIR_0_30)) == set(ROWS)
    later = replace(SMALL, family="MLA", drafts="mtp 2")
    quantised = replace(SMALL, graphs="FULL_DECODE_ONLY", weights="w8a8", layout="TP")
    for pair, verified in ((PAIR_0_23, [later, quantised]), (PAIR_0_30, [later])):
        rows = rows_of(pair)
        found = [one for one in (later, quantised) if proof_of("eplb_load", one, rows).is_verified]
        assert found == verified


@pytest.mark.parametrize("row", rows_of(PAIR_0_30), ids=lambda row: row.test)
def test_the_second_pairs_step_runs_its_rows(row: VerifiedRow) -> None:
    step = (ROOT / "scripts" / "second_pair" / "test.sh").read_text(encoding="utf-8")
    assert row.test.partition("::")[0] in step


def test_the_rows_of_pairs_are_its_cases() -> None:
    classes = {
        tuple(row.of(dimension) for dimension in DIMENSIONS)
        for row in ROWS
        if row.test.endswith("test_vllm_ascend_pairs.py::test_pairs_of_what_is_served")
    }
    cases = [case.deployment for case in pairs.CASES.values()]
    assert classes == {tuple((getattr(case, dimension),) for dimension in DIMENSIONS) for case in cases}


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
