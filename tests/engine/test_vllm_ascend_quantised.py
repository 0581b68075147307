# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend with W8A8_DYNAMIC weights on the emulator, against transformers with the same integer arithmetic,
and the expert load of quantised layers against its routers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.graph_counts import GraphCounts
from tests.support.engines.upstream_races import IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w8a8
from tests.support.reference import make_prompts, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
# small steps, so that prompts are prefilled in chunks and requests join and leave the batch
ENGINE = {"max_num_batched_tokens": 48, "max_num_seqs": 4, "enable_prefix_caching": False}
DYNAMIC_EPLB = {
    "dynamic_eplb": True,
    "expert_heat_collection_interval": 6,
    "algorithm_execution_interval": 3,
    "eplb_policy_type": 1,
}
NUM_STEPS = 30  # two cycles of 6 steps of counting, 3 for the policy and 2 layers moved, and some more
LOAD: dict[str, Any] = {"eplb_load": {"enabled": True, "interval": 3}}
DEADLINE_S = 240


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:6]


@pytest.fixture(scope="module")
def w8a8(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> str:
    folder = tmp_path_factory.mktemp("float")
    return write_w8a8(write_qwen3_moe(folder, tiny_model), tmp_path_factory.mktemp("w8a8"))


@pytest.fixture(scope="module", autouse=True)
def in_float32(vllm_preloaded: None) -> None:
    allow_float32()  # the ranks are forks of this process


def w8a8_case(
    model: str, layout: Layout, expert_parallel: bool, extension: dict[str, Any] | None, **ascend: Any
) -> EngineCase:
    """A case whose additional configuration is our section and `ascend`."""
    section = {} if extension is None else {"ascend_ext": extension}
    return EngineCase(
        model,
        layout,
        expert_parallel=expert_parallel,
        ascend_ext=extension,
        engine_args=ENGINE | {"additional_config": section | ascend},
    )


@pytest.mark.parametrize(
    ("layout", "expert_parallel", "extension"),
    [
        (Layout(), False, None),
        pytest.param(Layout(tp=2), False, LOAD, marks=long_table),
        pytest.param(Layout(tp=2), True, LOAD, marks=long_table),
    ],
    ids=["TP1, theirs", "TP2, load", "TP2+EP, load"],
)
def test_tokens_and_load_equal_integer_reference(
    w8a8: str, prompts: list[list[int]], layout: Layout, expert_parallel: bool, extension: dict[str, Any] | None
) -> None:
    """Each rank quantises its own part of what enters a projection that TP splits by its input."""
    network = integer_network(split_by_tp(layout.tp, expert_parallel=expert_parallel))
    case = w8a8_case(w8a8, layout, expert_parallel, extension)
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    expected = transformers_tokens(w8a8, prompts, NUM_TOKENS, network)
    assert len(set(expected)) > 4  # not degenerate
    assert result.token_ids == expected
    if extension is not None:
        assert_equals_transformers(w8a8, prompts, result, network)


def test_quantised_experts_move(
    w8a8: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, race_reports: Findings
) -> None:
    """vllm-ascend's EPLB, fed by our counts, moves int8 experts and their scales between two ranks: tokens and
    load stay those of the reference."""
    monkeypatch.setenv("DYNAMIC_EPLB", "true")
    extension = {"eplb_load": LOAD["eplb_load"] | {"rebalance": True, "rebalance_lead": 2, "deadline_s": 20.0}}
    case = w8a8_case(w8a8, Layout(tp=2), True, extension, eplb_config=DYNAMIC_EPLB)
    result = run_engine(case, prompts, max_tokens=NUM_STEPS, deadline_s=DEADLINE_S)
    network = integer_network(split_by_tp(2))
    assert result.token_ids == transformers_tokens(w8a8, prompts, NUM_STEPS, network)
    assert_equals_transformers(w8a8, prompts, result, network)
    for rank in result.ranks:
        assert rank.report is not None and rank.report["eplb_load"]["collection"]["num_windows"] >= 2
    assert others(race_reports.take(), ()) == []


def test_quantised_rows_travel_on_an_a3(w8a8: str, prompts: list[list[int]], tmp_path: Path) -> None:
    """MC2 quantises what it sends; all-to-all sends what was quantised. The load counts each rank's own rows."""
    case = w8a8_case(w8a8, Layout(tp=2), True, LOAD)
    run = run_on_a3(tmp_path, {"W8A8": case}, prompts, NUM_TOKENS, DEADLINE_S)["W8A8"]
    network = integer_network(split_by_tp(2))
    assert run.dispatches["MC2"] > 0
    assert run.dispatches["All2AllV"] > 0
    assert run.result.token_ids == transformers_tokens(w8a8, prompts, NUM_TOKENS, network)
    assert_equals_transformers(w8a8, prompts, run.result, network)


def test_quantised_layers_in_graphs(
    w8a8: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, race_reports: Findings
) -> None:
    """As it is served: the counts are inside the captured graphs of the decode steps."""
    graphs = GraphCounts(monkeypatch)
    case = w8a8_case(w8a8, Layout(tp=2), True, LOAD)
    settings = {
        "enforce_eager": False,
        "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [2, 4]},
        "async_scheduling": False,
    }
    case = replace(case, engine_args=case.engine_args | settings)
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    network = integer_network(split_by_tp(2))
    assert result.token_ids == transformers_tokens(w8a8, prompts, NUM_TOKENS, network)
    assert_equals_transformers(w8a8, prompts, result, network)
    assert graphs.captures >= 4
    assert graphs.replays >= NUM_TOKENS
    assert others(race_reports.take(), IN_GRAPHS) == []


@long_table
def test_bfloat16_runs_to_the_end(w8a8: str, prompts: list[list[int]]) -> None:
    """As it is served: scales and activations in bfloat16."""
    case = replace(w8a8_case(w8a8, Layout(tp=2), True, LOAD), dtype="bfloat16")
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert [len(tokens) for tokens in result.token_ids] == [NUM_TOKENS] * len(prompts)
    assert len(set(result.token_ids)) > 4
