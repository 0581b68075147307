# SPDX-License-Identifier: Apache-2.0
"""Classes of published deployments in small: quantised weights, drafts of EAGLE-3 or MTP,
FlashComm v1 or shared experts by data parallelism, graphs, both roles of KV transfer, with both our features.

Tokens and load are held to transformers with the same integer arithmetic, frames to the engine's tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.engine.published.cases import CASES, DEADLINE_S, NUM_TOKENS, PRODUCER, Case, engine_of, write_models
from tests.support.engines import sparse
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import REPLAY
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.near_ties import TIE, TIE_BFLOAT16, Followed, follow
from tests.support.engines.upstream_races import CAPTURE, CORRECTED_COUNTS, DRAFT_QUERIES, VALID_COUNTS, others
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp
from tests.support.reference import make_prompts
from tests.support.saved_output import assert_frames_are_the_tokens

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    allow_float32()  # the ranks are forks of this process
    sparse.allow_float32()
    return write_models(tmp_path_factory.mktemp("models"), tiny_model)


@long_table
@pytest.mark.parametrize("name", CASES)
def test_load_and_frames_are_exact(
    models: dict[str, str], prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    loads = []
    for role in case.roles:
        num_tokens = 1 if role == PRODUCER else NUM_TOKENS
        engine = engine_of(case, models, role, tmp_path)
        part = case.part(role)
        splits = {"": part.split} if part.layout.dp > 1 else {}
        run = run_on_a3(tmp_path, {"": engine}, prompts, num_tokens, DEADLINE_S, splits, case.soc)[""]
        network = integer_network(split_by_tp(part.layout.tp, cut=bool(part.row_split)))
        followed = follow(models[case.model], prompts, run.result.token_ids, network)
        followed.assert_tokens(TIE_BFLOAT16 if "W4A8" in case.model else TIE)
        check_frames(run, num_tokens)
        loads.append(check_rows(run, part))
        graphs = {REPLAY} if part.is_in_graphs else set()
        assert graphs <= set(run.dispatches) <= graphs | case.ways
        if role == PRODUCER:  # each row of the prompts, and no other
            followed.assert_all_of(loads[-1])
    assert len(set(run.result.token_ids)) > 4  # not degenerate
    check_load(followed, loads)
    known = (CORRECTED_COUNTS, VALID_COUNTS, DRAFT_QUERIES, *CAPTURE)
    assert others(race_reports.take(), known) == []


def check_frames(run: A3Run, num_tokens: int) -> None:
    assert_frames_are_the_tokens(run.saved)
    for rank in run.saved:
        assert all(len(tokens) == num_tokens for tokens in rank.outputs.values())
        assert all(bool(told.num_drafts) == (num_tokens > 1) for told in rank.told.values())


def check_rows(run: A3Run, case: Case) -> list[list[int]]:
    """Every row counts, of the target and of drafters that have experts; returns the target's load."""
    assert_every_row_counts(run.saved, run.result, case.top_k)
    assert {len(rank.report["eplb_load"]["load"]) for rank in run.saved} == {1 if case.is_eagle else 2}
    return summed_load(run.result, 0)[0]


def check_load(followed: Followed, loads: list[list[list[int]]]) -> None:
    """What the reference routes is among what the engines of all roles routed."""
    followed.assert_part_of(
        [[sum(counts) for counts in zip(*rows, strict=True)] for rows in zip(*loads, strict=True)]
    )
