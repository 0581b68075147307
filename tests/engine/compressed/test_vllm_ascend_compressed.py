# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V4 (compressed keys, hyper-connections, experts by token) on vllm-ascend, in small and on the emulator,
with expert load and MTP output on: against transformers, with the cache's rounding and, of quantised weights, the
same integer arithmetic.

One prompt is long enough for a key of 128 tokens. The indexer chooses all compressed keys of the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import A2_SOC, A3_SOC, REPLAY
from tests.support.engines.deepseek_v4 import CONFIG, cached_network, token_load, write_deepseek_v4
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.file_connector import transfer
from tests.support.engines.near_ties import TIE, TIE_BFLOAT16, follow
from tests.support.engines.upstream_races import (
    CAPTURE,
    CORRECTED_COUNTS,
    INDEXER_KEYS,
    VALID_COUNTS,
    UpstreamRace,
    others,
)
from tests.support.long_tables import long_table
from tests.support.quantised import integer_network, split_by_tp, write_w4a8, write_w8a8
from tests.support.reference import float_network, make_prompts, transformers_load
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
DEADLINE_S = 540
ENGINE = {"max_num_seqs": 4, "enable_prefix_caching": False}
# without drafts, whose passes a chunk would add to, prompts are prefilled in chunks
CHUNKS = {"max_num_batched_tokens": 48}
FLASHCOMM = {"enable_flashcomm1": True}
SHARED_DP = {"enable_shared_expert_dp": True}
PRODUCER, CONSUMER = "kv_producer", "kv_consumer"
FLOAT, W8A8, W4A8 = "float32", "W8A8", "W4A8"
QUANTISE = {W8A8: write_w8a8, W4A8: write_w4a8}
TP2, DP2, TP2DP2 = Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)
NUM_LONG = 150  # tokens of the longest prompt


@dataclass(frozen=True)
class Case:
    """drafts: of the MTP layer. in_graphs: decode steps are. split: prompts of each replica."""

    layout: Layout
    drafts: int = 0
    in_graphs: bool = False
    is_async: bool = False
    split: tuple[int, ...] | None = None
    additional: dict[str, Any] = field(default_factory=dict)
    soc: str = A3_SOC
    weights: str = FLOAT

    def engine(self, model: str, role: str = "", folder: Path | None = None) -> EngineCase:
        """role: of KV transfer, with the folder of the caches."""
        features: dict[str, Any] = {
            "eplb_load": {"enabled": True, "interval": 3, "deadline_s": 60.0},
            "mtp_output": {"enabled": True, "instance": next_instance(), "deadline_s": 60.0},
        }
        settings: dict[str, Any] = {
            "async_scheduling": self.is_async,
            "additional_config": {"ascend_ext": features, **self.additional},
        }
        if role and folder is not None:
            settings["kv_transfer_config"] = transfer(role, folder)
        if self.in_graphs:
            sizes = [requests * decode_tokens(self.drafts) for requests in (2, 4)]
            graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        return EngineCase(
            model,
            self.layout,
            expert_parallel=True,
            num_speculative_tokens=self.drafts,
            ascend_ext=features,
            engine_args=ENGINE | settings | ({} if self.drafts else CHUNKS),
        )

    @property
    def ways(self) -> set[str]:
        """Returns how rows may be sent."""
        return {"MC2", "All2AllV"} if self.soc == A3_SOC else {"AllGather"}

    def load_network(self, folder: str) -> Any:
        """Makes the network that the tokens are compared with."""
        integers = integer_network(split_by_tp(self.layout.tp, cut=bool(self.additional)))
        return cached_network(folder, float_network if self.weights == FLOAT else integers)


CASES = {
    "TP2": Case(TP2, soc=A2_SOC),
    "TP2, MTP1 in graphs, cut": Case(TP2, 1, True, True, None, FLASHCOMM, A2_SOC),
    "DP2, MTP1 in graphs": Case(DP2, 1, True, split=(5, 3), soc=A2_SOC),
    "DP2xTP2, MTP3 in graphs, cut": Case(TP2DP2, 3, True, True, (6, 2), FLASHCOMM),
    "DP2xTP2, W8A8, MTP1 in graphs, cut": Case(TP2DP2, 1, True, True, (6, 2), FLASHCOMM, weights=W8A8),
    "DP2xTP2, W4A8, MTP1 in graphs": Case(TP2DP2, 1, True, True, (6, 2), SHARED_DP, weights=W4A8),
}
# a producer of KV caches and their consumer, of one layout, so that both quantise alike
PAIRS = {
    "DP2xTP2, W8A8, MTP1 to MTP3": (
        Case(TP2DP2, 1, split=(5, 3), additional=SHARED_DP, weights=W8A8),
        Case(TP2DP2, 3, True, True, (5, 3), SHARED_DP, weights=W8A8),
    ),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    made = make_prompts(tiny_model)
    return [*made[:7], (made[3] + made[7])[:NUM_LONG]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> dict[str, str]:
    floats = write_deepseek_v4(tmp_path_factory.mktemp("deepseek-v4"), tiny_model)
    return {FLOAT: floats} | {
        name: write(floats, tmp_path_factory.mktemp(name)) for name, write in QUANTISE.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_with_both_features(
    models: dict[str, str], prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    splits = {} if case.split is None else {name: case.split}
    engines = {name: case.engine(models[case.weights])}
    run = run_on_a3(tmp_path, engines, prompts, NUM_TOKENS, DEADLINE_S, splits, case.soc)[name]
    load_LE = follow_tokens(case, run, models, prompts)
    assert_every_row_counts(run.saved, run.result, CONFIG["num_experts_per_tok"])
    kept_E = tokens_kept(models, run, prompts)
    assert all(ours >= kept for ours, kept in zip(load_LE[0], kept_E, strict=True))
    assert case.drafts or load_LE[0] == kept_E
    assert_frames(case, run)
    assert run.ways == case.ways
    assert bool(run.served[REPLAY]) == case.in_graphs
    assert others(race_reports.take(), races(case)) == []


@pytest.mark.parametrize("name", PAIRS)
def test_between_two_engines(
    models: dict[str, str], prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    """One engine computes the prompts, and another goes on with their caches: windows, compressed keys and the
    states of the compressors. Each row counts where it is computed."""
    loads = []
    for role, case in zip((PRODUCER, CONSUMER), PAIRS[name], strict=True):
        engines = {role: case.engine(models[case.weights], role, tmp_path)}
        splits = {} if case.split is None else {role: case.split}
        length = 1 if role == PRODUCER else NUM_TOKENS
        run = run_on_a3(tmp_path, engines, prompts, length, DEADLINE_S, splits, case.soc)[role]
        assert_every_row_counts(run.saved, run.result, CONFIG["num_experts_per_tok"])
        assert_frames_are_the_tokens(run.saved)
        assert run.ways <= case.ways
        loads.append(summed_load(run.result, 0))
        if role == PRODUCER:
            assert loads[0][1] == sum(len(prompt) for prompt in prompts)
            assert loads[0][0][0] == tokens_kept(models, run, prompts)
    followed = follow(models[case.weights], prompts, run.result.token_ids, case.load_network)
    followed.assert_tokens(TIE)
    assert loads[1][1] < loads[0][1]  # received rows are not computed again
    both_LE = [
        [sum(counts) for counts in zip(*rows, strict=True)] for rows in zip(loads[0][0], loads[1][0], strict=True)
    ]
    followed.assert_part_of(both_LE[1:])
    assert others(race_reports.take(), [INDEXER_KEYS, *CAPTURE, CORRECTED_COUNTS, VALID_COUNTS]) == []


def follow_tokens(case: Case, run: A3Run, models: dict[str, str], prompts: list[list[int]]) -> list[list[int]]:
    """Tokens are transformers', of quantised weights but for ties, and so are the experts in the layers that have
    a router. Returns the load."""
    followed = follow(models[case.weights], prompts, run.result.token_ids, case.load_network)
    assert len(set(run.result.token_ids)) == len(prompts)  # not degenerate
    if case.weights == FLOAT:
        followed.assert_tokens(tie=0, most_others=0)
    else:
        followed.assert_tokens(TIE_BFLOAT16 if case.weights == W4A8 else TIE)
    load_LE, _ = summed_load(run.result, 0)
    followed.assert_part_of(load_LE[1:])
    if not case.drafts:
        sequences = [[*p, *tokens[:-1]] for p, tokens in zip(prompts, run.result.token_ids, strict=True)]
        assert load_LE[1:] == transformers_load(models[case.weights], sequences, case.load_network)
    return load_LE


def tokens_kept(models: dict[str, str], run: A3Run, prompts: list[list[int]]) -> list[int]:
    """Returns the load of the layer that routes by tokens, of those that have stayed."""
    sequences = [[*p, *tokens[:-1]] for p, tokens in zip(prompts, run.result.token_ids, strict=True)]
    return token_load(models[FLOAT], sequences)


def assert_frames(case: Case, run: A3Run) -> None:
    """One rank of a replica sends, with one copy a step, and some drafts are accepted."""
    assert_frames_are_the_tokens(run.saved)
    for rank in run.saved:
        assert rank.copies == (0, rank.report["mtp_output"]["copies"] if rank.tp_rank == 0 else 0)
        for told in rank.told.values():
            assert bool(told.num_drafts) == bool(case.drafts and len(told.tokens) > 1)
    if case.drafts:
        sent = [rank.report["mtp_output"] for rank in run.saved if rank.tp_rank == 0]
        assert 0 < sum(sum(part["accepted_drafts"]) for part in sent) < sum(sum(part["drafts"]) for part in sent)


def races(case: Case) -> list[UpstreamRace]:
    known = [INDEXER_KEYS, *CAPTURE] if case.in_graphs else [INDEXER_KEYS]
    return known + ([CORRECTED_COUNTS, VALID_COUNTS] if case.is_async and case.drafts else [])
