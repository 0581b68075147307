# SPDX-License-Identifier: Apache-2.0
"""Expert load on an emulated A3, where vllm-ascend cuts the rows: MC2 for small steps, all-to-all for others."""

from __future__ import annotations

import pytest

from emulator.findings import Findings
from tests.eplb_load.vllm_ascend.test_dispatch import (
    DEADLINE_S,
    FLASHCOMM,
    NUM_TOKENS,
    Case,
    assert_counts_are_exact,
    engine_of,
)
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import REPLAY
from tests.support.engines.upstream_races import IN_GRAPHS, others
from tests.support.reference import make_prompts, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

# a step of drafts has two tokens a request
GRAPHS = {
    "enforce_eager": False,
    "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [4, 8]},
}
CUT = {
    "TP2": Case("Qwen3-MoE", Layout(tp=2)),
    "TP2, cut before the layer, MTP1": Case("DeepSeek", Layout(tp=2), 1, additional=FLASHCOMM),
    "DP2 in graphs, MTP1, an idle replica": Case("DeepSeek", Layout(dp=2), 1, (6, 1), arguments=GRAPHS),
    "TP2, fused": Case("Qwen3-MoE", Layout(tp=2), additional={"enable_fused_mc2": 1}),
    "DP2xTP2 MTP2, an idle replica": Case("DeepSeek", Layout(tp=2, dp=2), 2, (6, 1)),
}
Runs = tuple[dict[str, A3Run], list[list[int]], dict[str, list[tuple[int, ...]]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> Runs:
    """Every case's run, the prompts, and transformers' tokens of each model."""
    prompts = make_prompts(tiny_model)[:7]
    folder = tmp_path_factory.mktemp("Qwen3-MoE")
    models = {"DeepSeek": tiny_model, "Qwen3-MoE": write_qwen3_moe(folder, tiny_model)}
    expected = {name: transformers_tokens(model, prompts, NUM_TOKENS) for name, model in models.items()}
    engines = {name: engine_of(case, models) for name, case in CUT.items()}
    splits = {name: case.split for name, case in CUT.items() if case.split is not None}
    folder = tmp_path_factory.mktemp("A3")
    return run_on_a3(folder, engines, prompts, NUM_TOKENS, DEADLINE_S, splits), prompts, expected


@pytest.mark.parametrize("name", CUT)
def test_cut_rows_count_once(runs: Runs, race_reports: Findings, name: str) -> None:
    """A rank counts the real rows of its slice."""
    ours, prompts, expected = runs
    assert_counts_are_exact(prompts, expected[CUT[name].model], ours[name].result)
    assert others(race_reports.take(), IN_GRAPHS) == []  # the first test sees those of all runs
    ways = {"FusedMC2"} if "fused" in name else {"MC2", "All2AllV"}
    assert set(ours[name].dispatches) == ways | ({REPLAY} if "graphs" in name else set())
