# SPDX-License-Identifier: Apache-2.0
"""Expert load of engines on vllm-ascend, on the emulator with its race checker: exact, and no token changes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers
from tests.pairs.marks import on_first_pair
from tests.support.engines.expert_load import summed_load
from tests.support.engines.upstream_races import others
from tests.support.reference import make_prompts, transformers_load, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.eplb_load.host_sum import HostSum
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, RankError

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
# small steps, so that prompts are prefilled in chunks, requests join and leave the batch and most of what is
# compared goes through snapshots and the sum over the ranks
ENGINE = {"max_num_batched_tokens": 48, "max_num_seqs": 4, "enable_prefix_caching": False}
DEADLINE_S = 240


# of a cycle: 6 steps of counting, 3 for the policy, 2 layers moved
POLICY = 1
DYNAMIC_EPLB = {
    "dynamic_eplb": True,
    "expert_heat_collection_interval": 6,
    "algorithm_execution_interval": 3,
    "eplb_policy_type": POLICY,
}
CYCLE, LEAD = 11, 2
WINDOW = 6 - LEAD
NUM_REBALANCES = 10


def load(**settings: Any) -> dict[str, Any]:
    return {"eplb_load": {"enabled": True, "interval": 3} | settings}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> str:
    return write_qwen3_moe(tmp_path_factory.mktemp("model"), tiny_model)


@pytest.mark.parametrize(
    ("expert_parallel", "aggregation"), [(False, "host"), (True, "device")], ids=["TP2", "TP2+EP by HCCL"]
)
def test_load_equals_transformers_routing(
    qwen3_moe: str, prompts: list[list[int]], expert_parallel: bool, aggregation: str
) -> None:
    """Both TP ranks route the same rows, and warm-up counts nothing."""
    case = EngineCase(
        qwen3_moe,
        Layout(tp=2),
        expert_parallel=expert_parallel,
        ascend_ext=load(aggregation=aggregation),
        engine_args=ENGINE,
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert result.token_ids == transformers_tokens(qwen3_moe, prompts, NUM_TOKENS)
    assert_equals_transformers(qwen3_moe, prompts, result)


def test_mtp_counts_every_scheduled_row(tiny_model: str, prompts: list[list[int]]) -> None:
    """With MTP the target routes the prompts and every verified row; vLLM's own metrics say how many those are.

    The draft routes the target's rows once more, then one row a request in its second pass. The rows of tokens
    that stayed are transformers', what is counted beyond them are the rejected drafts.
    """
    case = EngineCase(
        tiny_model,
        Layout(tp=2),
        expert_parallel=True,
        num_speculative_tokens=2,
        ascend_ext=load(),
        engine_args={"enable_prefix_caching": False, "async_scheduling": False},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert result.token_ids == transformers_tokens(tiny_model, prompts, NUM_TOKENS)
    (target_LE, num_target), (draft_LE, num_draft) = summed_load(result, 0), summed_load(result, 1)
    metrics = result.ranks[0].metrics
    num_drafts = metrics["vllm:spec_decode_num_drafts"]
    assert num_target == sum(map(len, prompts)) + num_drafts + metrics["vllm:spec_decode_num_draft_tokens"]
    assert num_draft == num_target + len(prompts) + num_drafts
    assert [sum(row) for row in target_LE] == [4 * num_target] * 2
    assert [sum(row) for row in draft_LE] == [4 * num_draft]
    kept_LE = transformers_load(tiny_model, sequences(prompts, result, NUM_TOKENS - 1))
    assert [min(map(int.__sub__, ours, theirs)) >= 0 for ours, theirs in zip(target_LE, kept_LE, strict=True)] == [
        True
    ] * 2


def sequences(prompts: list[list[int]], result: EngineResult, num_tokens: int) -> list[list[int]]:
    """Each prompt with the first tokens of its completion."""
    return [[*p, *tokens[:num_tokens]] for p, tokens in zip(prompts, result.token_ids, strict=True)]


def dynamic_eplb(model: str, monkeypatch: pytest.MonkeyPatch) -> EngineCase:
    """All prompts are prefilled in the first step; each later one decodes one token of each."""
    monkeypatch.setenv("DYNAMIC_EPLB", "true")
    extension = load(rebalance=True, rebalance_lead=LEAD, deadline_s=20.0)
    return EngineCase(
        model,
        Layout(tp=2),
        expert_parallel=True,
        ascend_ext=extension,
        engine_args={
            "enable_prefix_caching": False,
            "additional_config": {"ascend_ext": extension, "eplb_config": DYNAMIC_EPLB},
        },
    )


@on_first_pair
def test_every_rebalancing_is_that_of_exact_counts(
    qwen3_moe: str,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    race_reports: Findings,
) -> None:
    """What the policy process of each rank reads are the window's rows by transformers' routers, it decides what
    the policy makes of those, and no token changes while experts move. The second window's sum is late."""
    from vllm_ascend.eplb.core.eplb_worker import EplbWorker

    round_ = HostSum._round

    def slow_round(self: HostSum, offer: int) -> None:
        if CYCLE < offer <= 2 * CYCLE:
            time.sleep(1)
        round_(self, offer)

    monkeypatch.setattr(HostSum, "_round", slow_round)
    do_update = EplbWorker.do_update

    def record(self: Any) -> Any:
        maps, moe_load = self.shared_dict["expert_maps"], self.shared_dict["moe_load"]
        answer = do_update(self)
        seen = [maps.tolist(), moe_load.tolist(), self.shared_dict["expert_maps"].tolist()]
        with (tmp_path / str(self.rank_id)).open("a") as file:
            file.write(json.dumps(seen) + "\n")
        return answer

    monkeypatch.setattr(EplbWorker, "do_update", record)  # ranks and policy processes are forks of this one
    num_tokens = NUM_REBALANCES * CYCLE + 1
    case = dynamic_eplb(qwen3_moe, monkeypatch)
    result = run_engine(case, prompts, max_tokens=num_tokens, deadline_s=DEADLINE_S)
    assert result.token_ids == transformers_tokens(qwen3_moe, prompts, num_tokens)
    windows = [window_load(qwen3_moe, prompts, result, cycle * CYCLE) for cycle in range(NUM_REBALANCES)]
    for rank in result.ranks:
        lines = (tmp_path / str(rank.report["rank"])).read_text().splitlines()  # type: ignore[index]
        updates = [json.loads(line) for line in lines]
        assert [of_experts(maps, moe_load) for maps, moe_load, _ in updates] == windows
        decided = [placement(maps).tolist() for _, _, maps in updates]
        assert decided == [policy(maps, load_LE) for (maps, _, _), load_LE in zip(updates, windows, strict=True)]
        assert sum(after != before for before, _, after in updates) >= NUM_REBALANCES // 2  # experts moved
        assert rank.report is not None and rank.report["eplb_load"]["collection"]["num_windows"] == NUM_REBALANCES
        assert rank.report["eplb_load"]["collection"]["num_late"] >= 1
    assert summed_load(result, 0)[0] == transformers_load(qwen3_moe, sequences(prompts, result, num_tokens - 1))
    assert others(race_reports.take(), ()) == []


def window_load(model: str, prompts: list[list[int]], result: EngineResult, begin: int) -> list[list[int]]:
    """Rows [L][E] that transformers routes in the window of the cycle that begins after `begin` steps."""
    end_LE = transformers_load(model, sequences(prompts, result, begin + WINDOW - 1))
    if begin == 0:
        return end_LE
    begin_LE = transformers_load(model, sequences(prompts, result, begin - 1))
    return [[end - begin for end, begin in zip(*rows, strict=True)] for rows in zip(end_LE, begin_LE, strict=True)]


def placement(maps: list[list[list[int]]]) -> torch.Tensor:
    """Experts [L, rank, place] of the experts' places [L][rank][E], -1 for an expert of another rank."""
    maps_LRE = torch.tensor(maps)
    num_places = int(maps_LRE.max()) + 1
    return maps_LRE.where(maps_LRE >= 0, maps_LRE.shape[-1]).argsort(dim=-1)[..., :num_places]


def policy(maps: list[list[list[int]]], load_LE: list[list[int]]) -> list[list[list[int]]]:
    """The placement that vllm-ascend's policy makes of the present one and the load of experts."""
    from vllm_ascend.eplb.core.policy.policy_factory import PolicyFactory

    before = placement(maps)
    loads = torch.tensor(load_LE)[:, None].expand(-1, before.shape[1], -1).gather(2, before)
    _, _, after = PolicyFactory.generate_policy(POLICY).rebalance_experts(before, loads)
    return torch.as_tensor(after).tolist()


def of_experts(maps: list[list[list[int]]], moe_load: list[list[list[int]]]) -> list[list[int]]:
    """Load [L][E] of experts, from that of places [L][rank][place] and the experts' places [L][rank][E]."""
    return [
        [
            sum(load_R[rank][places[expert]] for rank, places in enumerate(maps_R) if places[expert] >= 0)
            for expert in range(len(maps_R[0]))
        ]
        for maps_R, load_R in zip(maps, moe_load, strict=True)
    ]


@on_first_pair
def test_dead_policy_process_is_named(
    qwen3_moe: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, race_reports: Findings
) -> None:
    """vllm-ascend itself waits for it for ever."""
    from vllm_ascend.eplb.core.eplb_worker import EplbWorker

    monkeypatch.setattr(EplbWorker, "do_update", lambda self: os._exit(9))
    with pytest.raises(RankError, match=r"policy process \d+ has ended with exit code 9"):
        run_engine(dynamic_eplb(qwen3_moe, monkeypatch), prompts, max_tokens=CYCLE + 1, deadline_s=DEADLINE_S)
    assert others(race_reports.take(), ()) == []


def test_silent_policy_process_is_named() -> None:
    """It lives, but does not answer."""
    from vllm_ascend_ext.integration.eplb_load.ascend_eplb import PolicyAnswers, PolicyProcessError

    context = multiprocessing.get_context("fork")
    process = context.Process(target=time.sleep, args=(60,), daemon=True)
    process.start()
    try:
        answers = context.Queue()
        answers.put("placement")
        assert PolicyAnswers(answers, process, 10).get() == "placement"
        with pytest.raises(PolicyProcessError, match=rf"{process.pid} has not answered for 0.2 s"):
            PolicyAnswers(answers, process, 0.2).get()
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"additional_config": {"ascend_ext": load(rebalance=True)}}, "rebalance needs eplb_config.dynamic_eplb"),
    ],
)
def test_what_is_not_verified_is_refused(qwen3_moe: str, engine_args: dict[str, Any], message: str) -> None:
    case = EngineCase(qwen3_moe, ascend_ext=load(), engine_args=ENGINE | engine_args)
    with pytest.raises(RankError, match=message):
        run_engine(case, [[1, 2, 3]], max_tokens=1, deadline_s=DEADLINE_S)
