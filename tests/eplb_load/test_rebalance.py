# SPDX-License-Identifier: Apache-2.0
"""vLLM's EPLB fed by our counts, in one engine with everything that makes counting hard: two TP ranks with expert
parallelism, MTP, chunked prefill mixed with decoding, and preemption. Beside it the same engine deciding by vLLM's
own counts. A count of the test's own, step by step, says what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.support.reference import make_prompts
from vllm_ascend_ext.integration.errors import MovedExpertsError
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 64
INTERVAL, WINDOW, LEAD = 12, 7, 2
LOAD_ON = {"enabled": True, "interval": 5}
EPLB = {
    "window_size": WINDOW,
    "step_interval": INTERVAL,
    "num_redundant_experts": 4,
    "use_async": False,
}


@dataclass
class Observed:
    """What a rank saw. Loads are ``[L][E]`` of the target model."""

    tokens: dict[int, tuple[int, ...]]
    counts: list[list[list[int]]]  # routed real rows, of each step
    extra: list[list[int]]  # in vLLM's own counters before the first step
    windows: list[list[list[int]]] = field(default_factory=list)  # that decisions were taken on
    placements: list[list[list[int]]] = field(default_factory=list)  # [L][P], the first before any decision
    expected: list[list[list[int]]] = field(default_factory=list)  # vLLM's policy on `windows`
    steps: list[int] = field(default_factory=list)  # at whose end a decision was taken, from 1
    report: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""
    num_preemptions: int = 0


class Count:
    """Counts what the target's routers return, with no code in common with the package."""

    def __init__(self, runner: Any) -> None:
        from vllm.model_executor.layers.fused_moe.layer import FusedMoE

        layers = [module for module in runner.get_model().modules() if isinstance(module, FusedMoE)]
        self.shape = (len(layers), layers[0].logical_num_experts)
        self.steps: list[list[list[int]]] = []
        self._step = torch.zeros(self.shape, dtype=torch.int64)
        self._num_rows = 0
        for index, layer in enumerate(layers):
            layer.router._compute_routing = self._routing(index, layer.router._compute_routing)
        self._around(runner, "execute_model", before=self._begin)
        self._around(runner, "eplb_step", before=self._end)

    def _routing(self, index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def routing(*args: Any, **kwargs: Any) -> Any:
            weights, topk_ids = original(*args, **kwargs)
            ids = topk_ids[: self._num_rows].flatten().long()
            self._step[index] += torch.bincount(ids, minlength=self.shape[1])
            return weights, topk_ids

        return routing

    def _begin(self, scheduler_output: Any) -> None:
        self._num_rows = sum(scheduler_output.num_scheduled_tokens.values())

    def _end(self) -> None:
        self.steps.append(self._step.tolist())
        self._step.zero_()

    @staticmethod
    def _around(owner: Any, name: str, before: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            before(*args[:1]) if name == "execute_model" else before()
            return original(*args, **kwargs)

        setattr(owner, name, method)


def _watch_decisions(runner: Any, seen: Observed, count: Count) -> None:
    """Note every window and placement, and what vLLM's policy makes of the window."""
    eplb = runner.eplb_state
    states = enumerate(eplb.model_states.values())
    index, state = next((i, state) for i, state in states if state.model is runner.get_model())
    all_reduce, rearrange = eplb._allreduce_list, eplb.rearrange

    def noted_all_reduce(loads: Any) -> Any:
        sums = all_reduce(loads)
        seen.windows.append(sums[index].tolist())
        return sums

    def noted_rearrange(*args: Any, **kwargs: Any) -> Any:
        before = state.physical_to_logical_map.clone()
        result = rearrange(*args, **kwargs)
        seen.steps.append(len(count.steps))  # `eplb_step` has counted the present one
        window = torch.tensor(seen.windows[-1])
        model = state.model
        policy = eplb.policy.rebalance_experts(
            window, model.num_physical_experts, model.num_expert_groups, 1, 2, before
        )
        seen.expected.append(policy.tolist())
        seen.placements.append(state.physical_to_logical_map.tolist())
        return result

    eplb._allreduce_list, eplb.rearrange = noted_all_reduce, noted_rearrange
    logical = torch.zeros(count.shape, dtype=torch.int64)
    logical.scatter_add_(1, state.physical_to_logical_map, state.expert_load_pass.long())
    seen.extra = logical.tolist()


def _serve(case: EngineCase, prompts: list[list[int]]) -> list[Observed]:
    def job(rank: Rank) -> Observed:
        from vllm import LLM, SamplingParams

        llm = LLM(**case.llm_arguments())
        worker = llm.llm_engine.model_executor.driver_worker.worker
        runner = worker.model_runner
        assert worker.bound_features["eplb_load"].collection.windows.step == 0  # warm-up has no steps
        count, seen = Count(runner), Observed({}, [], [])
        _watch_decisions(runner, seen, count)
        params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(requests, params, use_tqdm=False)
        seen.tokens = {i: tuple(output.outputs[0].token_ids) for i, output in enumerate(outputs)}
        seen.counts = count.steps
        seen.report = llm.collective_rpc("ascend_ext_report")[0]
        for call in ("reload_weights", "start_weight_update"):
            with pytest.raises(MovedExpertsError) as error:
                llm.collective_rpc(call)
            seen.refusal += str(error.value)
        metrics = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
        seen.num_preemptions = metrics["vllm:num_preemptions"]
        return seen

    return run_ranks(job, case.layout, deadline_s=240)


def _case(model: str, load: dict[str, Any]) -> EngineCase:
    return EngineCase(
        model,
        Layout(tp=2),
        expert_parallel=True,
        num_speculative_tokens=1,
        ascend_ext={"eplb_load": {**LOAD_ON, **load}},
        engine_args={
            "enable_prefix_caching": False,
            "max_num_batched_tokens": 32,
            "max_num_seqs": 6,
            **{"num_gpu_blocks_override": 24, "block_size": 16, "max_model_len": 256},
            "enable_eplb": True,
            "eplb_config": EPLB,
        },
    )


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:12]


@pytest.fixture(scope="module")
def fed(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> list[Observed]:
    return _serve(_case(tiny_model, {"rebalance": True, "rebalance_lead": LEAD}), prompts)


@pytest.fixture(scope="module")
def own(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> list[Observed]:
    return _serve(_case(tiny_model, {}), prompts)


def _sum(steps: list[list[list[int]]], shape_of: list[list[int]]) -> list[list[int]]:
    total = torch.zeros_like(torch.tensor(shape_of))
    for step in steps:
        total += torch.tensor(step)
    return total.tolist()


def test_handed_over_and_pending_are_everything_that_was_routed(fed: list[Observed], own: list[Observed]) -> None:
    for ranks in (fed, own):
        assert ranks[0].num_preemptions > 0
        assert ranks[0].counts == ranks[1].counts  # TP ranks route the same rows
        parts = [rank.report["eplb_load"]["load"][0] for rank in ranks]
        total = _sum([part["load_LE"] for part in parts], parts[0]["load_LE"])
        assert total == _sum(ranks[0].counts, total)
        num_tokens = sum(part["num_tokens"] for part in parts)
        assert [sum(row) for row in total] == [parts[0]["top_k"] * num_tokens] * len(total)
        assert sum(map(sum, parts[1]["load_LE"])) == 0  # TP rank 0 counts and reports
        assert ranks[0].report["eplb_load"]["collection"]["num_handovers"] > len(ranks[0].counts) // 5 - 2


def test_decisions_equal_those_on_the_same_counts_taken_synchronously(fed: list[Observed]) -> None:
    """Each decision is vLLM's policy on exactly the steps of its window."""
    assert len(fed[0].windows) >= 10
    for seen in fed:
        for index, (step, window) in enumerate(zip(seen.steps, seen.windows, strict=True)):
            assert step == INTERVAL // 4 + index * INTERVAL
            end = step - LEAD
            assert window == _sum(seen.counts[max(end - WINDOW, 0) : end], window), step
        assert seen.placements == seen.expected
    assert fed[0].placements == fed[1].placements
    assert len({str(placement) for placement in fed[0].placements}) > 1  # experts did move
    collection = fed[0].report["eplb_load"]["collection"]
    assert collection["num_windows"] == len(fed[0].windows)


def test_vllms_own_counts_differ_by_warm_up_and_by_the_copies_of_tp_ranks(own: list[Observed]) -> None:
    """vLLM counts each row on both TP ranks, and what ran before the first request in its first window."""
    assert len(own[0].windows) >= 10
    for index, (step, window) in enumerate(zip(own[0].steps, own[0].windows, strict=True)):
        real = _sum(own[0].counts[max(step - WINDOW, 0) : step], window)
        extra = [rank.extra for rank in own] if index == 0 else []
        assert window == _sum([real, real, *extra], window), step
    assert sum(map(sum, own[0].extra)) > 0


def test_weights_are_not_loaded_where_experts_were(fed: list[Observed], own: list[Observed]) -> None:
    """vLLM answers ok and serves wrong tokens from then on, whoever has decided."""
    for seen in (*fed, *own):
        assert "reload_weights is refused: EPLB has moved experts of the " in seen.refusal
        assert "start_weight_update is refused" in seen.refusal


def test_tokens_are_the_same_whoever_decides(fed: list[Observed], own: list[Observed]) -> None:
    assert len({str(sorted(seen.tokens.items())) for seen in (*fed, *own)}) == 1
    assert all(len(tokens) == NUM_TOKENS for tokens in fed[0].tokens.values())


def test_idle_ranks_mark_the_same_windows(tiny_model: str, prompts: list[list[int]], fed: list[Observed]) -> None:
    """Two replicas, of which one is soon idle and only keeps step: the same decisions on both, the same tokens."""
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        expert_parallel=True,
        ascend_ext={"eplb_load": {**LOAD_ON, "rebalance": True, "rebalance_lead": LEAD, "phase": "decode"}},
        engine_args={"enable_prefix_caching": False, "max_num_seqs": 4, "enable_eplb": True, "eplb_config": EPLB},
    )
    result = run_engine(case, prompts[:5], max_tokens=NUM_TOKENS, deadline_s=240, split=(4, 1))
    assert result.token_ids == [fed[0].tokens[i] for i in range(5)]
    first, second = (rank.report for rank in result.ranks)
    assert first is not None and second is not None
    assert first["placements"] == second["placements"]
    assert first["eplb_load"]["collection"]["step"] == second["eplb_load"]["collection"]["step"]
    assert first["eplb_load"]["collection"]["num_windows"] == second["eplb_load"]["collection"]["num_windows"] >= 3
    # The first step holds all prompts. The idle-to-be replica's is one token, which alone would be decoding: that
    # it does not count either shows that both went by the larger replica's rows.
    assert [len(prompt) for prompt in prompts[:5]] == [1, 17, 40, 90, 1]
    loads = [report["eplb_load"]["load"][0] for report in (first, second)]
    assert sum(load["num_tokens"] for load in loads) == 5 * (NUM_TOKENS - 1)
    for rows in zip(*(load["load_LE"] for load in loads), strict=True):
        assert sum(map(sum, rows)) == loads[0]["top_k"] * 5 * (NUM_TOKENS - 1)
