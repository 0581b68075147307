# SPDX-License-Identifier: Apache-2.0
"""Sparse attention (DeepSeek-V3.2, GLM-5) on vllm-ascend, in small and on the emulator, with expert load and MTP
output on: against transformers, which has the indexer too. The prompts are short and see all of their keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.engine.test_vllm_ascend_service import TOP_K, assert_follows_the_reference
from tests.eplb_load.vllm_ascend.test_dispatch import assert_counts_are_exact
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import A2_SOC, A3_SOC, REPLAY
from tests.support.engines.expert_load import assert_every_row_counts
from tests.support.engines.sparse import ARCHITECTURES, allow_float32, write_sparse
from tests.support.engines.upstream_races import (
    CORRECTED_COUNTS,
    DUMMY_LENGTHS,
    IN_GRAPHS,
    VALID_COUNTS,
    UpstreamRace,
    others,
)
from tests.support.long_tables import long_table
from tests.support.quantised import write_w8a8
from tests.support.reference import make_prompts, transformers_tokens
from tests.support.saved_output import assert_frames_are_the_tokens, next_instance
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
DEADLINE_S = 500
LOAD: dict[str, Any] = {"eplb_load": {"enabled": True, "interval": 3, "deadline_s": 60.0}}
ENGINE = {"max_num_seqs": 4, "enable_prefix_caching": False}
# without drafts, whose passes a chunk would add to, prompts are prefilled in chunks
CHUNKS = {"max_num_batched_tokens": 48}
FLASHCOMM = {"enable_flashcomm1": True}
DSA_CP = FLASHCOMM | {"enable_dsa_cp": True}
V32, GLM, W8A8 = "DeepSeek-V3.2", "GLM-5", "DeepSeek-V3.2 W8A8"
TP2, TP2DP2 = Layout(tp=2), Layout(tp=2, dp=2)


@dataclass(frozen=True)
class Case:
    """drafts: of the MTP layer. in_graphs: decode steps are. split: prompts of each replica. context_parallel: the
    ranks of TP share the keys of decode steps out among them."""

    model: str
    layout: Layout
    drafts: int = 0
    in_graphs: bool = False
    is_async: bool = False
    split: tuple[int, ...] | None = None
    additional: dict[str, Any] = field(default_factory=dict)
    soc: str = A3_SOC
    context_parallel: bool = False

    def engine(self, models: dict[str, str]) -> EngineCase:
        features = LOAD | {"mtp_output": {"enabled": True, "instance": next_instance(), "deadline_s": 60.0}}
        settings: dict[str, Any] = {
            "async_scheduling": self.is_async,
            "additional_config": {"ascend_ext": features, **self.additional},
        }
        if self.context_parallel:
            settings["decode_context_parallel_size"] = self.layout.tp
        if self.in_graphs:
            sizes = [requests * decode_tokens(self.drafts) for requests in (2, 4)]
            graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        return EngineCase(
            models[self.model],
            self.layout,
            expert_parallel=True,
            num_speculative_tokens=self.drafts,
            ascend_ext=features,
            engine_args=ENGINE | settings | ({} if self.drafts else CHUNKS),
        )

    def ways(self) -> set[str]:
        """Returns how rows are to be sent."""
        return {"MC2", "All2AllV"} if self.soc == A3_SOC else {"AllGather"}

    def races(self) -> list[UpstreamRace]:
        known = [*IN_GRAPHS] if self.in_graphs else []
        if self.context_parallel and self.drafts:
            known.append(DUMMY_LENGTHS)
        return known + ([CORRECTED_COUNTS, VALID_COUNTS] if self.is_async and self.drafts else [])


CASES = {
    "TP2": Case(V32, TP2, soc=A2_SOC),
    "GLM-5 TP2, MTP1 in graphs": Case(GLM, TP2, 1, True, soc=A2_SOC),
    # as they are served
    "DP2xTP2, W8A8, MTP3 in graphs, cut": Case(W8A8, TP2DP2, 3, True, True, (5, 2), FLASHCOMM),
    "DP2xTP2, W8A8, MTP1, cut": Case(W8A8, TP2DP2, 1, split=(4, 3), additional=FLASHCOMM),
    "DP2xTP2 DCP2, W8A8, MTP3 in graphs, cut": Case(
        W8A8, TP2DP2, 3, True, True, (5, 2), FLASHCOMM, context_parallel=True
    ),
    "DP2xTP2 DCP2, MTP1, on an A2": Case(V32, TP2DP2, 1, split=(4, 3), soc=A2_SOC, context_parallel=True),
    # in prefill o_proj then has all of its rows, which would be quantised otherwise than in decode
    "GLM-5 DP2xTP2, MTP3 in graphs, cut for attention too": Case(GLM, TP2DP2, 3, True, False, (4, 3), DSA_CP),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    allow_float32()
    folders = {family: tmp_path_factory.mktemp(family) for family in ARCHITECTURES}
    written = {family: write_sparse(tiny_model, folder, family) for family, folder in folders.items()}
    return written | {W8A8: write_w8a8(written[V32], tmp_path_factory.mktemp("w8a8"))}


@pytest.fixture(scope="module")
def expected(models: dict[str, str], prompts: list[list[int]]) -> dict[str, list[tuple[int, ...]]]:
    return {family: transformers_tokens(models[family], prompts, NUM_TOKENS) for family in ARCHITECTURES}


def assert_frames_have_the_tokens(case: Case, run: A3Run, prompts: list[list[int]]) -> None:
    """One rank of a replica sends, with one copy a step."""
    seen: set[str] = set()
    assert_frames_are_the_tokens(run.saved)
    for rank in run.saved:
        assert rank.copies == (0, rank.report["mtp_output"]["copies"] if rank.tp_rank == 0 else 0)
        for told in rank.told.values():
            assert bool(told.num_drafts) == bool(case.drafts and len(told.tokens) > 1)
        seen |= set(rank.told)
    assert seen == {str(index) for index in range(len(prompts))}


@pytest.mark.parametrize("name", CASES)
def test_with_both_features(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    race_reports: Findings,
    tmp_path: Path,
    name: str,
) -> None:
    case, answers = CASES[name], expected
    if case.context_parallel:  # one prompt has keys on each rank: they are shared out by blocks of 128
        prompts = [*prompts[:6], prompts[3] + prompts[6] + prompts[3]]
        answers = {V32: transformers_tokens(models[V32], prompts, NUM_TOKENS)}
    splits = {} if case.split is None else {name: case.split}
    engines = {name: case.engine(models)}
    run = run_on_a3(tmp_path, engines, prompts, NUM_TOKENS, DEADLINE_S, splits, case.soc)[name]
    if case.model == W8A8:
        assert_follows_the_reference(prompts, run.result, cut=bool(case.additional))
    else:
        assert_counts_are_exact(prompts, answers[case.model], run.result)
    assert_every_row_counts(run.saved, run.result, TOP_K)
    assert_frames_have_the_tokens(case, run, prompts)
    assert run.ways == case.ways()
    assert bool(run.served[REPLAY]) == case.in_graphs
    assert others(race_reports.take(), case.races()) == []
