# SPDX-License-Identifier: Apache-2.0
"""Qwen3-Next on the emulated NPU with our features, against transformers: gated delta nets, whose states live
beside keys and values. Decode steps are captured graphs, prompts are prefilled in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import REPLAY
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.near_ties import follow
from tests.support.engines.qwen3_next import write_qwen3_next
from tests.support.engines.upstream_races import ACCEPTED_COUNTS, IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w8a8
from tests.support.reference import make_prompts, transformers_tokens
from tests.support.saved_output import SavedRun, assert_frames_are_the_tokens, next_instance
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
DEADLINE_S = 400
NUM_CHOSEN = 2


@dataclass(frozen=True)
class Case:
    """ways: how rows travel to their experts on an A3. is_quantised: in W8A8. cut: rows are, by FlashComm v1."""

    layout: Layout
    ways: frozenset[str]
    with_experts_apart: bool = True
    drafts: int = 0
    is_quantised: bool = False
    cut: bool = False

    def engine(self, model: str) -> EngineCase:
        sizes = [of_all * (1 + self.drafts) for of_all in (2, 4)]  # tokens of a decode step
        features = {
            "eplb_load": {"enabled": True, "interval": 2},
            "mtp_output": {"enabled": True, "instance": next_instance()},
        }
        return EngineCase(
            model,
            self.layout,
            expert_parallel=self.with_experts_apart,
            num_speculative_tokens=self.drafts,
            ascend_ext=features,
            engine_args={
                "additional_config": {"ascend_ext": features, "enable_flashcomm1": self.cut},
                "max_num_seqs": 4,
                "max_num_batched_tokens": 256 if self.drafts else 48,
                "enable_prefix_caching": False,
                "async_scheduling": False,
                "enforce_eager": False,
                "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes},
            },
        )


APART = frozenset({"MC2", "All2AllV"})
CASES = {
    "TP2": Case(Layout(tp=2), frozenset({"AllGather"}), with_experts_apart=False),
    "TP2+EP, MTP3": Case(Layout(tp=2), APART, drafts=3),
    "TP2+EP": Case(Layout(tp=2), APART),
    "DP2xTP2+EP, MTP3": Case(Layout(tp=2, dp=2), APART, drafts=3),
    "DP2xTP2+EP, W8A8, cut": Case(Layout(tp=2, dp=2), APART, is_quantised=True, cut=True),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> str:
    return write_qwen3_next(tmp_path_factory.mktemp("Qwen3-Next"), tiny_model)


@pytest.fixture(scope="module")
def w8a8(tmp_path_factory: pytest.TempPathFactory, model: str) -> str:
    allow_float32()  # the ranks are forks of this process
    return write_w8a8(model, tmp_path_factory.mktemp("W8A8"))


@pytest.fixture(scope="module")
def expected(model: str, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    tokens = transformers_tokens(model, prompts, NUM_TOKENS)
    assert len(set(tokens)) > 4  # not degenerate
    return tokens


def assert_some_drafts_stay(runs: list[SavedRun]) -> None:
    replicas = [saved for saved in runs if saved.tp_rank == 0]
    drafted, accepted = (
        sum(saved.metrics[f"vllm:spec_decode_num_{kind}_tokens"] for saved in replicas)
        for kind in ("draft", "accepted")
    )
    assert 0.1 * drafted < accepted < 0.8 * drafted


@pytest.mark.parametrize("name", CASES)
def test_in_graphs_on_an_a3(
    model: str,
    w8a8: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    tmp_path: Path,
    name: str,
) -> None:
    case = CASES[name]
    engine = case.engine(w8a8 if case.is_quantised else model)
    run = run_on_a3(tmp_path, {"": engine}, prompts, NUM_TOKENS, DEADLINE_S)[""]
    assert_every_row_counts(run.saved, run.result, NUM_CHOSEN)
    if case.is_quantised:
        network = integer_network(split_by_tp(case.layout.tp, cut=case.cut))
        followed = follow(w8a8, prompts, run.result.token_ids, network)
        followed.assert_tokens()
        followed.assert_all_of(summed_load(run.result, 0)[0])
    else:
        assert run.result.token_ids == expected
    if case.drafts:
        assert_some_drafts_stay(run.saved)
    elif not case.is_quantised:
        assert_equals_transformers(model, prompts, run.result)
    assert_frames_are_the_tokens(run.saved)
    assert set(run.dispatches) == case.ways | {REPLAY}
    assert others(race_reports.take(), (ACCEPTED_COUNTS, *IN_GRAPHS)) == []
