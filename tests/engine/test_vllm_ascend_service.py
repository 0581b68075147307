# SPDX-License-Identifier: Apache-2.0
"""A DeepSeek served as on an A3, in small and on the emulator: W8A8_DYNAMIC weights, MTP drafts and our features,
against transformers with the same integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_every_scheduled_row_counts
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import MOVE, REPLAY
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.near_ties import follow
from tests.support.engines.upstream_races import CORRECTED_COUNTS, IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w8a8
from tests.support.reference import make_prompts
from tests.support.saved_output import assert_frames_are_the_tokens, next_instance
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
TOP_K = 4
NUM_SERVED = 32  # of the service: enough steps for two cycles of EPLB
DEADLINE_S = 600
ENGINE = {"max_num_seqs": 4, "enable_prefix_caching": False}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def w8a8(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> str:
    return write_w8a8(tiny_model, tmp_path_factory.mktemp("w8a8"))


@pytest.fixture(scope="module", autouse=True)
def in_float32(vllm_preloaded: None) -> None:
    allow_float32()  # the ranks are forks of this process


@dataclass(frozen=True)
class Case:
    """drafts: of the MTP layer. capture_sizes: of decode steps' tokens; none: eager."""

    layout: Layout = Layout(tp=2)
    drafts: int = 0
    capture_sizes: tuple[int, ...] = ()
    is_async: bool = False
    split: tuple[int, ...] | None = None
    features: dict[str, Any] = field(default_factory=dict)
    eplb: dict[str, Any] | None = None

    def engine(self, model: str) -> EngineCase:
        settings: dict[str, Any] = {"async_scheduling": self.is_async}
        if self.capture_sizes:
            graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": list(self.capture_sizes)}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        if not self.drafts:
            settings["max_num_batched_tokens"] = 48  # prompts are prefilled in chunks
        features = {"eplb_load": {"enabled": True, "interval": 3} | self.features.get("eplb_load", {})}
        features = self.features | features
        eplb = {} if self.eplb is None else {"eplb_config": self.eplb}
        return EngineCase(
            model,
            self.layout,
            expert_parallel=True,
            num_speculative_tokens=self.drafts,
            ascend_ext=features,
            engine_args=ENGINE | settings | {"additional_config": {"ascend_ext": features} | eplb},
        )


# a decode step has a token and three drafts of each request
GRAPHS = (8, 16)
CASES = {
    "TP2": Case(),
    "TP2, MTP1": Case(drafts=1),
    "TP2, MTP3 in graphs": Case(drafts=3, capture_sizes=GRAPHS),
    "DP2xTP2, MTP3 in graphs, an idle replica": Case(Layout(tp=2, dp=2), 3, GRAPHS, split=(6, 1)),
}
SERVICE = Case(
    Layout(tp=2, dp=2),
    drafts=3,
    capture_sizes=GRAPHS,
    is_async=True,
    features={
        "eplb_load": {"rebalance": True, "rebalance_lead": 1, "deadline_s": 60.0},
        "mtp_output": {"enabled": True, "instance": next_instance()},
    },
    # a cycle: 4 steps of counting, 2 for the policy, 3 layers moved
    eplb={
        "dynamic_eplb": True,
        "num_redundant_experts": 4,
        "expert_heat_collection_interval": 4,
        "algorithm_execution_interval": 2,
        "eplb_policy_type": 1,
    },
)


def assert_follows_the_reference(prompts: list[list[int]], result: EngineResult, *, cut: bool = False) -> None:
    """Tokens are greedy, and each expert has the rows that transformers routes; with drafts, at least those of the
    tokens that stayed. cut: whether FlashComm v1 cuts rows."""
    network = integer_network(split_by_tp(result.case.layout.tp, cut=cut))
    followed = follow(result.case.model, prompts, result.token_ids, network)
    assert len(set(result.token_ids)) > 4  # not degenerate
    followed.assert_tokens()
    load_LE, num_tokens = summed_load(result, 0)
    if result.case.num_speculative_tokens:
        followed.assert_part_of(load_LE)
    else:
        assert num_tokens == sum(len(p) + len(t) - 1 for p, t in zip(prompts, result.token_ids, strict=True))
        followed.assert_all_of(load_LE)


@long_table
@pytest.mark.parametrize("name", list(CASES)[:2])
def test_on_an_a2(w8a8: str, prompts: list[list[int]], race_reports: Findings, name: str) -> None:
    result = run_engine(CASES[name].engine(w8a8), prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert_follows_the_reference(prompts, result)
    if CASES[name].drafts:
        assert_every_scheduled_row_counts(prompts, result)
    assert race_reports.take() == []


@long_table
def test_on_an_a3(w8a8: str, prompts: list[list[int]], race_reports: Findings, tmp_path: Path) -> None:
    """Rows travel by MC2 in small steps, in graphs too, and by all-to-all in others."""
    engines = {name: case.engine(w8a8) for name, case in CASES.items()}
    splits = {name: case.split for name, case in CASES.items() if case.split is not None}
    runs = run_on_a3(tmp_path, engines, prompts, NUM_TOKENS, DEADLINE_S, splits)
    for name, run in runs.items():
        assert_follows_the_reference(prompts, run.result)
        if CASES[name].drafts:
            assert_every_scheduled_row_counts(prompts, run.result)
        graphs = {REPLAY} if CASES[name].capture_sizes else set()
        assert set(run.dispatches) == {"MC2", "All2AllV"} | graphs
    assert others(race_reports.take(), IN_GRAPHS) == []


@long_table
def test_everything_at_once(
    w8a8: str,
    prompts: list[list[int]],
    race_reports: Findings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """As on a real A3: captured decode steps go by MC2, prefills by all-to-all, experts have copies and move."""
    monkeypatch.setenv("DYNAMIC_EPLB", "true")
    splits = {"": (5, 2)}
    run = run_on_a3(tmp_path, {"": SERVICE.engine(w8a8)}, prompts, NUM_SERVED, DEADLINE_S, splits)[""]
    assert_follows_the_reference(prompts, run.result)
    assert_every_row_counts(run.saved, run.result, TOP_K)
    assert_frames_are_the_tokens(run.saved)
    assert set(run.dispatches) == {"MC2", "All2AllV", REPLAY, MOVE}
    for rank in run.saved:
        collection = rank.report["eplb_load"]["collection"]
        assert collection["num_windows"] - collection["num_without_gain"] >= 2
    assert others(race_reports.take(), (CORRECTED_COUNTS, *IN_GRAPHS)) == []
