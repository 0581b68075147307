# SPDX-License-Identifier: Apache-2.0
"""Classes of published deployments in small: quantised weights, drafts of EAGLE-3 or MTP,
FlashComm v1 or shared experts by data parallelism, graphs, both roles of KV transfer, with both our features.

Tokens and load are held to transformers with the same integer arithmetic, frames to the engine's tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.engine.published.cases import (
    CASES,
    DEADLINE_S,
    FLASHCOMM,
    IN_BFLOAT16,
    LATER,
    NUM_TOKENS,
    PRODUCER,
    Case,
    Models,
    engine_of,
    without_features,
)
from tests.pairs.marks import on_pairs
from tests.support.engines import sparse
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import REPLAY
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.near_ties import TIE, TIE_BFLOAT16, Followed, follow
from tests.support.engines.upstream_races import (
    CORRECTED_COUNTS,
    DRAFT_QUERIES,
    DUMMY_LENGTHS,
    IN_GRAPHS,
    VALID_COUNTS,
    others,
)
from tests.support.long_tables import long_table
from tests.support.quantised import WHOLE_BY_FLASHCOMM, allow_float32, integer_network, split_by_tp
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
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> Models:
    allow_float32()  # the ranks are forks of this process
    sparse.allow_float32()
    return Models(tmp_path_factory.mktemp("models"), tiny_model)


@long_table
@pytest.mark.parametrize("name", on_pairs(CASES, LATER))
def test_load_and_frames_are_exact(
    models: Models, prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    """Tokens are the reference's but for ties, and each row counts once, where it is computed.

    The reference rounds activations to int8 and int4 experts' results to bfloat16, and no more. An engine that is
    in bfloat16 as a whole rounds all else too, so that more tokens tie; they are also held to those of the same
    engine without our features, which has to give exactly the same.
    """
    case = CASES[name]
    if case.has_keys_apart:  # one prompt has keys on each rank, to which they go by blocks
        prompts = [*prompts[:6], prompts[3] + prompts[6] + prompts[3]]
    loads = []
    for role in case.roles:
        num_tokens = 1 if role == PRODUCER else NUM_TOKENS
        engines = {"": engine_of(case, models, role, tmp_path)}
        part = case.part(role)
        if case.model.startswith(IN_BFLOAT16):
            engines["plain"] = without_features(engines[""])
        splits = dict.fromkeys(engines, part.split) if part.layout.dp > 1 else {}
        runs = run_on_a3(tmp_path, engines, prompts, num_tokens, DEADLINE_S, splits, case.soc)
        run = runs[""]
        assert {tuple(other.result.token_ids) for other in runs.values()} == {tuple(run.result.token_ids)}
        is_whole = WHOLE_BY_FLASHCOMM if part.row_split == FLASHCOMM else bool(part.row_split)
        shards = split_by_tp(part.layout.tp, expert_parallel=not part.splits_experts, cut=is_whole)
        network = integer_network(shards)
        followed = follow(models[case.model], prompts, run.result.token_ids, network)
        followed.assert_tokens(*ties(case))
        check_frames(run, num_tokens, bool(part.drafts))
        loads.append(check_rows(run, part))
        assert run.ways == part.ways
        assert bool(run.served[REPLAY]) == part.is_in_graphs
        if role == PRODUCER:  # each row of the prompts, and no other
            followed.assert_all_of(loads[-1])
    assert len(set(run.result.token_ids)) > 4  # not degenerate
    check_load(followed, loads)
    known = [CORRECTED_COUNTS, VALID_COUNTS, DRAFT_QUERIES, *IN_GRAPHS]
    if case.has_keys_apart:
        known.append(DUMMY_LENGTHS)
    assert others(race_reports.take(), known) == []


def ties(case: Case) -> tuple[float, int]:
    """Returns by how much logits of tied tokens differ at most, and how many tokens may be tied. A whole engine in
    bfloat16 rounds more often than the reference, so that more of them are."""
    if case.model.startswith(IN_BFLOAT16):
        return TIE_BFLOAT16, 6
    return (TIE_BFLOAT16 if "W4A8" in case.model else TIE), 2


def check_frames(run: A3Run, num_tokens: int, has_drafts: bool) -> None:
    assert_frames_are_the_tokens(run.saved)
    for rank in run.saved:
        assert all(len(tokens) == num_tokens for tokens in rank.outputs.values())
        has_some = has_drafts and num_tokens > 1
        assert all(bool(told.num_drafts) == has_some for told in rank.told.values())


def check_rows(run: A3Run, case: Case) -> list[list[int]]:
    """Every row counts, of the target and of drafters that have experts; returns the target's load."""
    assert_every_row_counts(run.saved, run.result, case.top_k)
    has_experts = bool(case.drafts) and not case.is_eagle
    assert {len(rank.report["eplb_load"]["load"]) for rank in run.saved} == {has_experts + 1}
    return summed_load(run.result, 0)[0]


def check_load(followed: Followed, loads: list[list[list[int]]]) -> None:
    """What the reference routes is among what the engines of all roles routed."""
    followed.assert_part_of(
        [[sum(counts) for counts in zip(*rows, strict=True)] for rows in zip(*loads, strict=True)]
    )
