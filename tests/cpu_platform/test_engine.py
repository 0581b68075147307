# SPDX-License-Identifier: Apache-2.0
"""What the CPU platform gives back to vLLM: chunked prefill, prefix caching, async scheduling, EPLB, bf16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, transformers_tokens
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 24
# 16 experts in order, then four redundant copies
INITIAL_PLACEMENT = [*range(16), *range(4)]


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:12]


@pytest.fixture(scope="module")
def expected(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> list[tuple[int, ...]]:
    return transformers_tokens(tiny_model, prompts, NUM_TOKENS)


def tokens(case: EngineCase, prompts: list[list[int]], **options: Any) -> list[tuple[int, ...]]:
    return run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120, **options).token_ids


@pytest.mark.parametrize("k", [0, 2])
def test_chunked_prefill(
    tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], k: int
) -> None:
    """Sixteen tokens a step: the longer prompts arrive in chunks, mixed with other requests' decode steps."""
    case = EngineCase(
        tiny_model,
        num_speculative_tokens=k,
        engine_args={"max_num_batched_tokens": 16, "max_num_seqs": 4, "enable_prefix_caching": False},
    )
    assert tokens(case, prompts) == expected


@pytest.mark.parametrize("k", [0, 2])
def test_prefix_caching(
    tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], k: int
) -> None:
    """The same prompts twice in one engine, two at a time: the second half finds its prefixes in the cache."""
    case = EngineCase(
        tiny_model,
        num_speculative_tokens=k,
        engine_args={"enable_prefix_caching": True, "block_size": 16, "max_num_seqs": 2},
    )
    result = run_engine(case, prompts + prompts, max_tokens=NUM_TOKENS, deadline_s=120)
    assert result.token_ids == expected + expected
    assert result.ranks[0].metrics["vllm:prompt_tokens_cached"] > 0


def _scheduled() -> Iterator[Any]:
    """Yields layout, drafts, asynchronous; asynchronous is vLLM's default, most of the others are nightly."""
    rows = {
        "TP1": (Layout(), 0),
        "TP1-mtp": (Layout(), 1),
        "TP2": (Layout(tp=2), 0),
        "TP2-mtp": (Layout(tp=2), 2),
        "DP2-mtp": (Layout(dp=2), 2),
        "DP2xTP2-mtp": (Layout(tp=2, dp=2), 2),
    }
    for name, (layout, k) in rows.items():
        yield pytest.param(layout, k, True, id=f"async-{name}")
        marks = () if name in ("TP1-mtp", "DP2xTP2-mtp") else long_table
        yield pytest.param(layout, k, False, id=f"sync-{name}", marks=marks)


@pytest.mark.parametrize(("layout", "k", "asynchronous"), _scheduled())
def test_scheduling(
    tiny_model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    layout: Layout,
    k: int,
    asynchronous: bool,
) -> None:
    """With data parallelism, one replica has a single request and is idle for most of the run."""
    case = EngineCase(
        tiny_model,
        layout,
        expert_parallel=layout.num_ranks > 1,
        num_speculative_tokens=k,
        engine_args={"async_scheduling": asynchronous, "max_num_seqs": 5},
    )
    split = (len(prompts) - 1, 1) if layout.dp > 1 else None
    assert tokens(case, prompts, split=split) == expected


def test_upstream_async_scheduling_bug_is_what_we_mend(
    tiny_model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With upstream's method in place of ours, the same engine gives wrong tokens: the mend is what cures it."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner

    name = "_copy_valid_sampled_token_count"
    monkeypatch.setattr(TorchCPUModelRunner, name, getattr(CPUModelRunner, name))
    case = EngineCase(
        tiny_model, num_speculative_tokens=2, engine_args={"async_scheduling": True, "max_num_seqs": 5}
    )
    assert tokens(case, prompts) != expected


def test_preemption(tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]]) -> None:
    """A cache of 20 pages for 12 requests: some are preempted and computed again."""
    case = EngineCase(
        tiny_model,
        num_speculative_tokens=1,
        engine_args={"num_gpu_blocks_override": 20, "block_size": 16, "max_model_len": 256},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120)
    assert result.token_ids == expected
    assert result.ranks[0].metrics["vllm:num_preemptions"] > 0


@pytest.mark.parametrize("k", [0, 2])
def test_random_sampling_restricted_to_the_best_token_is_greedy(
    tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], k: int
) -> None:
    """Takes the sampler's and the rejection sampler's random paths (temperatures, recovered tokens)."""
    case = EngineCase(tiny_model, num_speculative_tokens=k)
    assert tokens(case, prompts, sampling={"temperature": 0.7, "top_k": 1}) == expected


@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)], ids=["TP2", "DP2", "DP2xTP2"])
def test_eplb_rearranges_experts_without_changing_tokens(
    tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], layout: Layout
) -> None:
    case = EngineCase(
        tiny_model,
        layout,
        expert_parallel=True,
        num_speculative_tokens=1,
        ascend_ext={"eplb_load": {"enabled": True}},
        engine_args={
            "enable_eplb": True,
            "eplb_config": {"window_size": 4, "step_interval": 8, "num_redundant_experts": 4},
        },
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120)
    assert result.token_ids == expected
    for rank in result.ranks:
        assert rank.report is not None
        draft, target = (rank.report["placements"][name] for name in ("draft", "target"))
        assert (len(draft), len(target)) == (1, 2)
        for placement in (*draft, *target):
            assert placement != INITIAL_PLACEMENT
            assert set(placement) == set(range(16))
        assert rank.report["placements"] == result.ranks[0].report["placements"]


@pytest.mark.parametrize("k", [0, 2])
def test_bfloat16(tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], k: int) -> None:
    """In bfloat16 the ranks agree with each other, a run repeats itself, and tokens stay close to float32.

    Close, not equal: rounding decides between near-ties, after which a completion goes its own way.
    """
    few = prompts[:6]
    case = EngineCase(tiny_model, Layout(tp=2), expert_parallel=True, num_speculative_tokens=k, dtype="bfloat16")
    first = run_engine(case, few, max_tokens=NUM_TOKENS, deadline_s=120)
    assert first.ranks[0].completions == first.ranks[1].completions
    assert first.token_ids == tokens(case, few)
    starts_right = [ours[:2] == theirs[:2] for ours, theirs in zip(first.token_ids, expected, strict=False)]
    assert sum(starts_right) >= 0.75 * len(few)
