# SPDX-License-Identifier: Apache-2.0
"""Scattered attention input as Atlas machines serve models, in small on the emulator: W8A8_DYNAMIC weights,
W4A8_DYNAMIC experts, replicas, rows that are sent to experts, sparse attention, and drafts beside captured graphs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.attn_scatter.vllm_ascend.phases import check_bytes, check_own_counts
from tests.attn_scatter.vllm_ascend.served import (
    DP2XTP2,
    GRAPHS,
    ON_A_STREAM,
    SIXTEEN,
    Case,
    Served,
)
from tests.support.engines.apart import A2_SOC, A3_SOC, MOVE, REPLAY
from tests.support.engines.upstream_races import CAPTURE, others
from tests.support.long_tables import long_table
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

ON_A2 = {
    "W8A8 TP2": Case("DeepSeek W8A8", expert_parallel=False),
    "W8A8 TP2+EP": Case("DeepSeek W8A8"),
    "sparse TP2+EP": Case("DeepSeek-V3.2"),
    "sparse TP2+EP GLM-5": Case("GLM-5"),
}
BESIDE_GRAPHS = {
    "TP2+EP MTP3": Case(drafts=3, capture_sizes=GRAPHS),
    "Qwen3-MoE W8A8 TP2": Case("Qwen3-MoE W8A8", expert_parallel=False, capture_sizes=(1, 2, 4)),
    "sparse W4A8 DP2xTP2+EP MTP3, shared experts on a stream": Case(
        "DeepSeek-V3.2 W4A8", DP2XTP2, drafts=3, capture_sizes=GRAPHS, split=(6, 2), additional=ON_A_STREAM
    ),
}
# as many ranks as an A2 needs to send rows by MC2, in steps of sixteen at most
ON_SIXTEEN = Case(SIXTEEN, Layout(tp=16))
# a cycle: 4 steps of counting, 2 for the policy, 2 layers moved; without copies of experts, of which vllm-ascend
# asks its map of experts by the wrong numbers where rows are gathered (ops/fused_moe/token_dispatcher.py:393)
MOVING = Case(
    "Qwen3-MoE",
    capture_sizes=(1, 2, 4),
    graphs="FULL_AND_PIECEWISE",
    additional={
        "eplb_config": {
            "dynamic_eplb": True,
            "expert_heat_collection_interval": 4,
            "algorithm_execution_interval": 2,
            "eplb_policy_type": 1,
        }
    },
)
ON_A3 = {
    "TP2+EP": Case(),
    "Qwen3-MoE TP2+EP in graphs": Case("Qwen3-MoE", capture_sizes=(1, 2, 4), graphs="FULL_AND_PIECEWISE"),
    "DP2xTP2+EP, an idle replica": Case(layout=DP2XTP2, split=(8, 0)),
    "W8A8 TP2+EP MTP3 in graphs": Case("DeepSeek W8A8", drafts=3, capture_sizes=GRAPHS),
    "W8A8 DP2xTP2+EP MTP3 in graphs": Case("DeepSeek W8A8", DP2XTP2, drafts=3, capture_sizes=GRAPHS, split=(6, 2)),
    "sparse W8A8 TP2+EP MTP3 in graphs": Case("DeepSeek-V3.2 W8A8", drafts=3, capture_sizes=GRAPHS),
}


@pytest.fixture(scope="module")
def served(tiny_model: str, tmp_path_factory: pytest.TempPathFactory, vllm_preloaded: None) -> Served:
    return Served(tiny_model, lambda: tmp_path_factory.mktemp("model"))


@long_table
@pytest.mark.parametrize("name", ON_A2)
def test_on_an_a2(served: Served, race_reports: Findings, name: str) -> None:
    """Rows reach the experts by all-gather."""
    case = ON_A2[name]
    ranks = served.run(case)
    served.check(case, ranks)
    for plain, always in ranks:
        check_bytes(plain, always)
    assert others(race_reports.take(), ()) == []


@long_table
@pytest.mark.parametrize("name", BESIDE_GRAPHS)
def test_beside_graphs(served: Served, race_reports: Findings, tmp_path: Path, name: str) -> None:
    """Steps of captured sizes replay vllm-ascend's own layers, and drafts, and larger ones are scattered."""
    case = BESIDE_GRAPHS[name]
    ranks, ways = served.run_apart(tmp_path, case, A2_SOC)
    served.check(case, ranks)
    for _, always in ranks:
        check_own_counts(always, replicas_sum=case.layout.dp > 1)
    assert ways[REPLAY] > 0
    assert set(ways) == {"AllGather", REPLAY}
    assert others(race_reports.take(), CAPTURE) == []


@long_table
def test_on_sixteen_ranks_of_an_a2(served: Served, race_reports: Findings, tmp_path: Path) -> None:
    """MC2 takes what decodes and the nine rows of the last prompt, which some ranks have none of, and rows of the
    other steps are gathered."""
    prompts = served.prompts
    few = Served(served.tiny_model, served.new_folder)
    few.prompts = [*prompts[1:4], prompts[2][:9]]
    ranks, ways = few.run_apart(tmp_path, ON_SIXTEEN, A2_SOC, deadline_s=1000)
    few.check(ON_SIXTEEN, ranks)
    for _, always in ranks:
        check_own_counts(always, tp=ON_SIXTEEN.layout.tp)
    assert set(ways) == {"MC2", "AllGather"}
    assert others(race_reports.take(), CAPTURE) == []


@long_table
def test_experts_move_meanwhile(
    served: Served, race_reports: Findings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vllm-ascend's EPLB moves experts between scattered steps."""
    monkeypatch.setenv("DYNAMIC_EPLB", "true")
    ranks, ways = served.run_apart(tmp_path, MOVING, A2_SOC)
    served.check(MOVING, ranks)
    for _, always in ranks:
        check_own_counts(always)
    assert set(ways) == {"AllGather", REPLAY, MOVE}
    assert others(race_reports.take(), CAPTURE) == []


@long_table
@pytest.mark.parametrize("name", ON_A3)
def test_on_an_a3(served: Served, race_reports: Findings, tmp_path: Path, name: str) -> None:
    """Rows are sent to the experts, by MC2 in small steps and by all-to-all in others; none is gathered behind."""
    case = ON_A3[name]
    ranks, ways = served.run_apart(tmp_path, case, A3_SOC)
    served.check(case, ranks)
    for plain, always in ranks:
        check_own_counts(always)
        assert plain.sent["HcclReduceScatter"] == 0
    assert min(ways["MC2"], ways["All2AllV"]) > 0
    assert (ways[REPLAY] > 0) == bool(case.capture_sizes)
    assert others(race_reports.take(), CAPTURE) == []
