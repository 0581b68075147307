# SPDX-License-Identifier: Apache-2.0
"""Engines in small that run pairs of what published deployments set, with expert load and MTP output on."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.engine.pairs import CASES, LATER, Case
from tests.pairs.marks import on_pairs
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import REPLAY
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.near_ties import follow
from tests.support.engines.upstream_races import IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, write_w8a8
from tests.support.reference import make_prompts, transformers_load, transformers_tokens, write_qwen3_moe
from tests.support.saved_output import assert_frames_are_the_tokens

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
DEADLINE_S = 500
NUM_PROMPTS = 7
TOP_K = {"GQA": 2, "MLA": 4}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:NUM_PROMPTS]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    """Family and weights -> the model's folder."""
    allow_float32()
    floats = {"MLA": tiny_model, "GQA": write_qwen3_moe(tmp_path_factory.mktemp("GQA"), tiny_model)}
    found = {f"{name} unquantised": model for name, model in floats.items()}
    return found | {
        f"{name} w8a8": write_w8a8(model, tmp_path_factory.mktemp(name)) for name, model in floats.items()
    }


@pytest.mark.parametrize("name", on_pairs(CASES, LATER))
def test_pairs_of_what_is_served(
    models: dict[str, str], prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    """Tokens are the reference's, each real row counts once, and the frames are the engine's tokens."""
    case = CASES[name]
    model = models[f"{case.family} {case.weights}"]
    splits = {name: case.split} if case.split else None
    run = run_on_a3(tmp_path, {name: case.engine(model)}, prompts, NUM_TOKENS, DEADLINE_S, splits, case.soc)[name]
    assert_ways(case, run)
    assert_frames_are_the_tokens(run.saved)
    assert_every_row_counts(run.saved, run.result, TOP_K[case.family])
    assert_follows(case, model, prompts, run)
    assert others(race_reports.take(), IN_GRAPHS) == []


def assert_ways(case: Case, run: A3Run) -> None:
    """Steps of decode replay graphs; on an A3 small steps travel by MC2, others by all-to-all."""
    ways = {"AllGather"} if case.deployment.dispatch == "ALLGATHER" else {"MC2", "All2AllV"}
    assert set(run.dispatches) == ways | ({REPLAY} if case.mode else set())


def assert_follows(case: Case, model: str, prompts: list[list[int]], run: A3Run) -> None:
    """Tokens and, row by row, experts are those of transformers; beside integers but for ties."""
    token_ids = run.result.token_ids
    load_LE, _ = summed_load(run.result, 0)
    if case.weights != "unquantised":
        followed = follow(model, prompts, token_ids, case.load_network)
        followed.assert_tokens()
        check = followed.assert_part_of if case.drafts or case.is_async else followed.assert_all_of
        check(load_LE)
        return
    assert token_ids == transformers_tokens(model, prompts, NUM_TOKENS, case.load_network)
    if not case.drafts and not case.is_async:
        sequences = [[*prompt, *tokens[:-1]] for prompt, tokens in zip(prompts, token_ids, strict=True)]
        assert load_LE == transformers_load(model, sequences, case.load_network)
