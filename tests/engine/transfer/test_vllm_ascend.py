# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend with prefill and decode in engines of their own, on the emulated NPU: tokens, load and frames.

One engine computes the prompts, a connector moves their KV caches through files, and another engine goes on. Rows
are counted where they are computed: those of received caches nowhere again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.pairs.marks import on_first_pair, on_pairs
from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.engines.apart import A2_SOC, A3_SOC, REPLAY, call_apart, dispatches, served
from tests.support.engines.expert_load import assert_every_row_counts, summed_load
from tests.support.engines.file_connector import transfer
from tests.support.engines.near_ties import follow
from tests.support.engines.sparse import allow_float32 as allow_float32_cache
from tests.support.engines.sparse import write_sparse
from tests.support.engines.upstream_races import CORRECTED_COUNTS, IN_GRAPHS, VALID_COUNTS, others
from tests.support.engines.worker_processes import run_in_workers
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w8a8
from tests.support.reference import make_prompts, transformers_load, transformers_tokens, write_qwen3_moe
from tests.support.saved_output import assert_frames_are_the_tokens, next_instance
from tests.support.told_frames import Told
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
DEADLINE_S = 280  # of each engine
TOP_K = {"MLA": 4, "GQA": 2}
ENGINE: dict[str, Any] = {"max_num_batched_tokens": 256, "max_num_seqs": 4, "enable_prefix_caching": False}
PRODUCER, CONSUMER, BOTH_ROLES = "kv_producer", "kv_consumer", "kv_both"
FULL, BOTH = "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"
# needs requests that wait for their caches: of others vllm-ascend 0.23.0.post1 takes the placeholders for tokens
# (core/recompute_scheduler.py:684 reads `num_computed_tokens` before it is set)
RECOMPUTE = {"recompute_scheduler_enable": True}
FLASHCOMM = {"enable_flashcomm1": True}
ONE, TP2, DP2, TP2DP2 = Layout(), Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)


@dataclass(frozen=True)
class Part:
    """Describes one engine. mode: of graphs, or "" for none. waits: whether requests wait for their caches, and
    steps without a pass come. split: prompts of each replica, if not even. captured: tokens of prefill steps whose
    graphs are captured."""

    layout: Layout = ONE
    drafts: int = 0
    mode: str = ""
    is_async: bool = False
    waits: bool = False
    split: tuple[int, ...] | None = None
    additional: dict[str, Any] = field(default_factory=dict)
    captured: tuple[int, ...] = ()

    def engine(self, model: str, role: str, folder: Path) -> EngineCase:
        features = {
            "eplb_load": {"enabled": True, "interval": 3},
            "mtp_output": {"enabled": True, "instance": next_instance(), "deadline_s": 60.0},
        }
        settings: dict[str, Any] = {
            "async_scheduling": self.is_async,
            "kv_transfer_config": transfer(role, folder, waits=self.waits),
            "additional_config": {"ascend_ext": features, **self.additional},
        }
        if self.mode:
            tokens = decode_tokens(self.drafts)  # of a request in a decode step
            captured = [2 * tokens, 4 * tokens, *self.captured]
            sizes = {"cudagraph_mode": self.mode, "cudagraph_capture_sizes": captured}
            settings |= {"enforce_eager": False, "compilation_config": sizes}
        return EngineCase(
            model,
            self.layout,
            expert_parallel=self.layout.num_ranks > 1,
            num_speculative_tokens=self.drafts,
            ascend_ext=features,
            engine_args=ENGINE | settings,
        )


@dataclass(frozen=True)
class Pair:
    """Describes two engines. roles: the producer's and the consumer's."""

    model: str
    producer: Part
    consumer: Part
    soc: str = A2_SOC
    is_quantised: bool = True
    roles: tuple[str, str] = (PRODUCER, CONSUMER)


PAIRS = {
    "MLA TP2 mtp 1, plain": Pair("MLA", Part(TP2, 1), Part(TP2, 1, FULL), is_quantised=False),
    "MLA, plain, both roles": Pair("MLA", Part(), Part(), is_quantised=False, roles=(BOTH_ROLES, BOTH_ROLES)),
    "MLA mtp 1 to mtp 3, async, recompute": Pair(
        "MLA", Part(ONE, 1), Part(ONE, 3, is_async=True, waits=True, additional=RECOMPUTE), is_quantised=False
    ),
    "MLA mtp 1": Pair("MLA", Part(ONE, 1), Part(ONE, 1, BOTH, is_async=True)),
    "MLA DP2 mtp 1 on an A3": Pair(
        "MLA",
        Part(DP2, 1, split=(5, 2)),
        Part(DP2, 1, FULL, waits=True, split=(5, 2), additional=RECOMPUTE),
        A3_SOC,
    ),
    "GQA DP2xTP2": Pair(
        "GQA", Part(TP2DP2, mode=BOTH, captured=(64, 256)), Part(TP2DP2, mode=FULL, is_async=True, split=(5, 2))
    ),
}
# run with the second pair, in its nightly step
LATER = {"MLA mtp 1"}
# stages of a producer
PIPELINES = {
    f"{family} TP2xPP2 mtp {drafts}": (
        family,
        Part(Layout(tp=2, pp=2), drafts, is_async=True, additional=FLASHCOMM),
    )
    for family, drafts in (("MLA", 1), ("MLA", 3), ("sparse MLA", 1))
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    """One is longer than a block of the KV cache, 128 tokens."""
    prompts = make_prompts(tiny_model)[:8]
    return [*prompts[:6], prompts[3] + prompts[7]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    allow_float32()  # of quantised models; the ranks are forks of this process
    allow_float32_cache()
    qwen = write_qwen3_moe(tmp_path_factory.mktemp("Qwen3-MoE"), tiny_model)
    sparse = write_sparse(tiny_model, tmp_path_factory.mktemp("DeepSeek-V3.2"), "DeepSeek-V3.2")
    plain = {"MLA": tiny_model, "GQA": qwen, "sparse MLA": sparse}
    folders = {name: tmp_path_factory.mktemp(name) for name in plain}
    return plain | {f"{name} W8A8": write_w8a8(model, folders[name]) for name, model in plain.items()}


@pytest.mark.parametrize("name", on_pairs(PAIRS, LATER))
def test_each_row_counts_where_it_is_computed(
    models: dict[str, str], prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    """The prompts where they are prefilled, and where decoding goes on their last tokens and what follows."""
    pair = PAIRS[name]
    model = models[f"{pair.model} W8A8" if pair.is_quantised else pair.model]
    parts = {"producer": pair.producer, "consumer": pair.consumer}
    engines = {
        which: part.engine(model, role, tmp_path)
        for (which, part), role in zip(parts.items(), pair.roles, strict=True)
    }
    splits = {which: part.split for which, part in parts.items() if part.split is not None}
    lengths = {"producer": 1, "consumer": NUM_TOKENS}
    runs = run_on_a3(tmp_path, engines, prompts, lengths, DEADLINE_S, splits, pair.soc)
    told = {which: told_of(run) for which, run in runs.items()}
    prefilled = [(prompt, 0) for prompt in prompts]
    placeholders = pair.consumer.drafts if RECOMPUTE.items() <= pair.consumer.additional.items() else 0
    decoded = [
        step
        for prompt, of_request in zip(prompts, told["consumer"], strict=True)
        for step in steps(prompt, of_request, placeholders)
    ]
    assert_first_tokens(told)
    for which, rows in (("producer", prefilled), ("consumer", decoded)):
        run, part = runs[which], parts[which]
        assert_rows(run, part, rows, TOP_K[pair.model])
        assert_tokens_and_experts(pair, model, prompts, run, None if part.is_async else rows)
        assert_ways(run, part, pair.soc)
    known = [*IN_GRAPHS, CORRECTED_COUNTS, VALID_COUNTS]
    assert others(race_reports.take(), known) == []


@on_first_pair
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_prefills(
    models: dict[str, str], prompts: list[list[int]], race_reports: Findings, tmp_path: Path, name: str
) -> None:
    """Each stage counts its own layers, and the last one those of drafts; it sends. The last step is a token."""
    prompts = [*prompts, prompts[1], prompts[0]]
    family, part = PIPELINES[name]
    model = models[f"{family} W8A8"]
    engine = part.engine(model, PRODUCER, tmp_path)
    apart: dict[str, Any] = {"num_ranks": part.layout.num_ranks, "soc": A3_SOC, "compiles": False}
    sampling = [{"max_tokens": 1}] * len(prompts)
    run, _ = call_apart(tmp_path, run_in_workers, engine, prompts, sampling, deadline_s=DEADLINE_S, **apart)
    assert set(served(dispatches(tmp_path)).read_text().split()) == {"MC2", "All2AllV"}
    for index, tokens in run.outputs.items():
        assert run.told[index].tokens == tokens
        assert run.told[index].statuses == [RequestStatus.FINISHED]
    result = run.result(engine)
    load_LE, num_target = summed_load(result, 0)
    assert num_target == sum(map(len, prompts))
    followed = follow(model, prompts, result.token_ids, integer_network(split_by_tp(part.layout.tp, cut=True)))
    followed.assert_tokens()
    followed.assert_all_of(load_LE)
    last_stage = EngineResult(engine, result.ranks[part.layout.tp :])
    draft_LE, num_draft = summed_load(last_stage, 1)
    assert num_draft == num_target + (part.drafts - 1) * len(prompts)
    assert [sum(row) for row in draft_LE] == [TOP_K["MLA"] * num_draft]
    assert others(race_reports.take(), [CORRECTED_COUNTS, VALID_COUNTS]) == []


def told_of(run: A3Run) -> list[Told]:
    """Returns what the frames of an engine say of each prompt, which is what it puts out."""
    assert_frames_are_the_tokens(run.saved)
    told = {name: of_request for saved in run.saved for name, of_request in saved.told.items()}
    return [told[str(index)] for index in range(len(told))]


def assert_first_tokens(told: dict[str, list[Told]]) -> None:
    firsts = [[of_request.tokens[0] for of_request in engine] for engine in told.values()]
    assert firsts[0] == firsts[1]
    assert not any(of_request.num_drafts for of_request in told["producer"])


def steps(prompt: list[int], told: Told, num_placeholders: int) -> list[tuple[list[int], int]]:
    """Returns of each step of a decoded request the sequence and its first row that the step has computed: the
    last token of what is known, of which only the caches before have come, and its drafts. In the first step the
    recompute scheduler has placeholders for drafts, which are token 0 for the model."""
    pairs, done = [], 0
    for count, drafts in zip(told.counts, told.drafts, strict=True):
        known = [*prompt, *told.tokens[:done]]
        given = drafts if done else [0] * num_placeholders
        pairs.append(([*known, *given], len(known) - 1))
        done += count
    return pairs


def assert_rows(run: A3Run, part: Part, rows: list[tuple[list[int], int]], top_k: int) -> None:
    """Every row that is scheduled counts once, and of the drafts' passes every row of the first and of each other
    one row a request. With async scheduling also the rows of requests that have ended before the host knew."""
    assert_every_row_counts(run.saved, run.result, top_k)
    _, num_target = summed_load(run.result, 0)
    num_rows = sum(len(sequence) - first for sequence, first in rows)
    assert num_target >= num_rows if part.is_async else num_target == num_rows


def assert_tokens_and_experts(
    pair: Pair, model: str, prompts: list[list[int]], run: A3Run, rows: list[tuple[list[int], int]] | None
) -> None:
    """Tokens are the reference's, and each expert has the rows that it routes there; with integers but for rows
    between experts that are nearly tied. rows: None where more rows than are known of were scheduled."""
    tokens, (load_LE, _) = run.result.token_ids, summed_load(run.result, 0)
    if not pair.is_quantised:
        assert tokens == transformers_tokens(model, prompts, len(tokens[0]))
        if rows is not None:
            sequences, since = map(list, zip(*rows, strict=True))
            assert load_LE == transformers_load(model, sequences, since=since)
        return
    network = integer_network(split_by_tp(run.result.case.layout.tp))
    followed = follow(model, prompts, tokens, network, rows)
    followed.assert_tokens()
    if rows is not None:
        followed.assert_all_of(load_LE)


def assert_ways(run: A3Run, part: Part, soc: str) -> None:
    """On an A3 the producer's last step is small, and the consumer's all are."""
    is_consumer = len(run.result.token_ids[0]) > 1
    ways = {"MC2"} if is_consumer else {"MC2", "All2AllV"}
    assert run.ways == (ways if soc == A3_SOC else {"AllGather"})
    assert bool(part.mode) == (run.served[REPLAY] > 0)
