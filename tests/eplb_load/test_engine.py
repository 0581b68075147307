# SPDX-License-Identifier: Apache-2.0
"""Expert load in a real engine: exact, per layer and expert, against a count by transformers' routers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.expert_load import summed_load
from tests.support.reference import float_network, make_prompts, transformers_load, write_model
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 16
# so that most of what is compared went through snapshots and the sum over the ranks
FEATURES = {"eplb_load": {"enabled": True, "interval": 3}}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:9]


def assert_equals_transformers(
    model: str,
    prompts: list[list[int]],
    result: EngineResult,
    load_network: Callable[[str], Any] = float_network,
) -> None:
    """The last token of each completion is sampled but never routed."""
    sequences = [[*prompt, *tokens[:-1]] for prompt, tokens in zip(prompts, result.token_ids, strict=True)]
    load_LE, num_tokens = summed_load(result, 0)
    for rank in result.ranks:
        assert rank.report is not None and rank.report["eplb_load"]["collection"]["num_handovers"] >= 5
    assert num_tokens == sum(map(len, sequences))
    assert load_LE == transformers_load(model, sequences, load_network)


@pytest.mark.parametrize(
    ("layout", "split"),
    [(Layout(), None), (Layout(tp=2), None), (Layout(dp=2), (8, 1)), (Layout(tp=2, dp=2), (8, 1))],
    ids=["TP1", "TP2", "DP2", "DP2xTP2"],
)
def test_load_equals_transformers_routing(
    tiny_model: str, prompts: list[list[int]], layout: Layout, split: tuple[int, ...] | None
) -> None:
    """Warm-up, padding, idle ranks and the copies that TP ranks route count nothing; all else counts once."""
    case = EngineCase(
        tiny_model,
        layout,
        expert_parallel=layout.num_ranks > 1,
        ascend_ext=FEATURES,
        engine_args={"enable_prefix_caching": False, "max_num_batched_tokens": 32, "max_num_seqs": 4},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120, split=split)
    assert_equals_transformers(tiny_model, prompts, result)


@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)], ids=["TP2", "DP2", "DP2xTP2"])
def test_draft_and_target_count_every_scheduled_row(
    tiny_model: str, prompts: list[list[int]], layout: Layout
) -> None:
    """With MTP the target routes the prompts and every verified row; vLLM's own metrics say how many those are.

    The draft routes the target's rows once more, then one row a request in its second pass.
    """
    case = EngineCase(
        tiny_model,
        layout,
        expert_parallel=True,
        num_speculative_tokens=2,
        ascend_ext=FEATURES,
        engine_args={"enable_prefix_caching": False, "async_scheduling": False},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120)
    assert_every_scheduled_row_counts(prompts, result)


def assert_every_scheduled_row_counts(prompts: list[list[int]], result: EngineResult) -> None:
    """A step verifies a token and its drafts; each draft but the first takes a pass of one row a request."""
    (target_LE, num_target), (draft_LE, num_draft) = summed_load(result, 0), summed_load(result, 1)
    later_passes = result.case.num_speculative_tokens - 1
    assert [sum(row) for row in target_LE] == [4 * num_target] * 2
    assert [sum(row) for row in draft_LE] == [4 * num_draft]
    replicas = [rank.metrics for rank in result.ranks if rank.tp_rank == 0]
    verified = sum(
        metrics["vllm:spec_decode_num_drafts"] + metrics["vllm:spec_decode_num_draft_tokens"]
        for metrics in replicas
    )
    num_steps_of_requests = len(prompts) + sum(metrics["vllm:spec_decode_num_drafts"] for metrics in replicas)
    assert num_target == sum(map(len, prompts)) + verified
    assert num_draft == num_target + later_passes * num_steps_of_requests


def test_logical_experts_are_counted_under_eplb(tiny_model: str, prompts: list[list[int]]) -> None:
    """EPLB moves and copies physical experts; what is counted stays the logical expert."""
    case = EngineCase(
        tiny_model,
        Layout(tp=2),
        expert_parallel=True,
        ascend_ext=FEATURES,
        engine_args={
            "enable_prefix_caching": False,
            "enable_eplb": True,
            "eplb_config": {"window_size": 4, "step_interval": 8, "num_redundant_experts": 4},
        },
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120)
    assert_equals_transformers(tiny_model, prompts, result)


def test_tp_ranks_that_route_the_same_rows_count_them_once(
    tiny_model: str, prompts: list[list[int]], tmp_path: Path
) -> None:
    """With TP, DP and EP vLLM splits DeepSeek's rows among the TP ranks, but not Mixtral's."""
    model = write_model(tmp_path, tiny_model, "MixtralConfig", num_local_experts=8, num_experts_per_tok=2)
    case = EngineCase(
        model,
        Layout(tp=2, dp=2),
        expert_parallel=True,
        ascend_ext=FEATURES,
        engine_args={"enable_prefix_caching": False},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=180, split=(8, 1))
    assert_equals_transformers(model, prompts, result)
