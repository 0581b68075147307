# SPDX-License-Identifier: Apache-2.0
"""Scattered attention input as Atlas machines serve models, in small on the emulator: W8A8_DYNAMIC weights,
replicas, rows that are sent to experts, sparse attention, and drafts beside captured graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.attn_scatter.vllm_ascend.phases import check_bytes, check_own_counts
from tests.attn_scatter.vllm_ascend.served import DP2XTP2, GRAPHS, Case, Served
from tests.support.engines.apart import A2_SOC, A3_SOC, REPLAY
from tests.support.engines.upstream_races import CAPTURE, others
from tests.support.long_tables import long_table

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
}
ON_A3 = {
    "TP2+EP": Case(),
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
        check_own_counts(always)
    assert ways[REPLAY] > 0
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
