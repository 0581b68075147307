# SPDX-License-Identifier: Apache-2.0
"""Tokens with scattered attention input equal those of vLLM's own layers, whatever the rows of a step."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest

from tests.engine.reference import make_prompts, write_model
from tests.engine.test_models import MODELS
from vllm_ascend_ext.integration.engine import EngineCase, run_engine
from vllm_ascend_ext.integration.ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_PROMPTS, NUM_TOKENS, LONGEST = 64, 8, 300
LAYOUTS = {"TP2": Layout(tp=2), "DP2xTP2+EP": Layout(tp=2, dp=2)}
NEVER = 1 << 30
# steps of at most 96 rows: most prompts are prefilled in chunks, beside others that decode
ENGINE_ARGS = {"max_num_batched_tokens": 96, "max_num_seqs": 24, "enable_prefix_caching": False}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    """64 prompts of 1 to 300 tokens, most of odd length."""
    tokens = [token for prompt in make_prompts(tiny_model) for token in prompt]
    lengths = [1, 2, 3, LONGEST, *random.Random(5).sample(range(1, LONGEST, 2), NUM_PROMPTS - 4)]
    return [[tokens[(i * 97 + j) % len(tokens)] for j in range(length)] for i, length in enumerate(lengths)]


def _threshold(worker: Any, min_tokens: int) -> None:
    worker.scattered_model.min_tokens = min_tokens


def _generate(llm: Any, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [tuple(output.outputs[0].token_ids) for output in outputs]


def _phases(case: EngineCase, prompts: list[list[int]], thresholds: list[int]) -> list[list[dict[str, Any]]]:
    """Completes `prompts` once for each threshold, in one engine: [rank][threshold] of tokens and report."""
    # with two replicas, one is soon idle and only keeps step
    counts = [len(prompts) - 3 * (case.layout.dp - 1), *[3] * (case.layout.dp - 1)]

    def job(rank: Rank) -> list[dict[str, Any]]:
        from vllm import LLM

        begin = sum(counts[: rank.dp_rank])
        own = prompts[begin : begin + counts[rank.dp_rank]]
        llm = LLM(**case.llm_arguments())
        phases = []
        for threshold in thresholds:
            llm.collective_rpc(_threshold, args=(threshold,))
            llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})
            tokens = _generate(llm, own)
            phases.append({"tokens": tokens, **llm.collective_rpc("ascend_ext_report")[0]})
        return phases

    return run_ranks(job, case.layout, deadline_s=400)


def _cases() -> list[Any]:
    """All combinations; two of them, which have every property between them, are always run."""
    always = {("TP2", False, 2), ("DP2xTP2+EP", True, 2)}
    return [
        pytest.param(*case, marks=() if case in always else pytest.mark.slow, id="-".join(map(str, case)))
        for case in (*itertools.product(LAYOUTS, (False, True), (0, 2)), ("DP2xTP2", True, 0))
    ]


@pytest.mark.parametrize(("layout", "full", "num_speculative_tokens"), _cases())
def test_tokens_and_bytes(
    tiny_model: str, prompts: list[list[int]], layout: str, full: bool, num_speculative_tokens: int
) -> None:
    shape = LAYOUTS.get(layout, Layout(tp=2, dp=2))
    features: dict[str, Any] = {
        "attn_scatter": {"enabled": True, "full": full, "min_tokens": 1},
        "eplb_load": {"enabled": True},
    }
    if shape.dp > 1 and full and num_speculative_tokens:
        features["dp_gather"] = {"enabled": True}  # all of them together
    case = EngineCase(
        tiny_model,
        shape,
        expert_parallel="EP" in layout,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext=features,
        engine_args=ENGINE_ARGS,
    )
    ranks = _phases(case, prompts, [NEVER, 1, 40])
    for plain, always, some in ranks:
        assert plain["attn_scatter"]["num_scattered"] == 0 and not plain["traffic"]["attn_scatter"]
        assert always["attn_scatter"]["num_plain"] == 0
        assert some["attn_scatter"]["num_plain"] > 0
        for phase in (always, some):
            assert phase["attn_scatter"]["num_scattered"] > 0
            assert phase["tokens"] == plain["tokens"]
            sent = sum(counts["bytes"] for counts in phase["traffic"]["attn_scatter"].values())
            assert sent == phase["attn_scatter"]["predicted_bytes"]
    plain_load, *others = (_target_load([rank[i] for rank in ranks]) for i in range(3))
    assert others == [plain_load] * 2


def _target_load(phases: list[dict[str, Any]]) -> list[list[int]]:
    """Tokens routed to each expert of the target model in one phase, over all ranks."""
    loads = [phase["load"][0]["load_LE"] for phase in phases]
    return [[sum(counts) for counts in zip(*rows, strict=True)] for rows in zip(*loads, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_tokens_of_an_engine_without_us(tiny_model: str, prompts: list[list[int]], full: bool) -> None:
    """From 16 rows on, without and with EPLB moving experts meanwhile, against a plain engine."""
    settings = {"enabled": True, "full": full, "min_tokens": 16}
    eplb = {
        "enable_eplb": True,
        "eplb_config": {"window_size": 8, "step_interval": 8, "num_redundant_experts": 2, "use_async": False},
    }
    case = EngineCase(
        tiny_model, Layout(tp=2), expert_parallel=True, num_speculative_tokens=2, engine_args=ENGINE_ARGS
    )
    plain = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=300)
    for more in ({}, eplb):
        ours = dataclasses.replace(case, ascend_ext={"attn_scatter": settings}, engine_args=ENGINE_ARGS | more)
        result = run_engine(ours, prompts, max_tokens=NUM_TOKENS, deadline_s=300)
        assert result.token_ids == plain.token_ids
        report = result.ranks[0].report
        assert report is not None and report["attn_scatter"]["num_scattered"] > 0
        assert not more or report["physical_to_logical"]["target"] != [sorted(range(16)) + [0, 1]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plain_qkv_projection(
    tiny_model: str, prompts: list[list[int]], layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Qwen3-MoE: the gather comes before the projection."""
    model = write_model(
        tmp_path_factory.mktemp("qwen"), tiny_model, *MODELS["Qwen3-MoE"][:1], **MODELS["Qwen3-MoE"][1]
    )
    for full in (False, True):
        case = EngineCase(
            model,
            LAYOUTS[layout],
            expert_parallel="EP" in layout,
            ascend_ext={"attn_scatter": {"enabled": True, "full": full, "min_tokens": 1}},
            engine_args=ENGINE_ARGS,
        )
        for plain, always in _phases(case, prompts[:24], [NEVER, 1]):
            num_requests = len(plain["tokens"])  # of one replica
            assert always["tokens"] == plain["tokens"] and len(set(plain["tokens"])) > min(4, num_requests - 1)
            sent = sum(counts["bytes"] for counts in always["traffic"]["attn_scatter"].values())
            assert sent == always["attn_scatter"]["predicted_bytes"] > 0


@pytest.mark.slow
def test_fp8_wire_changes_few_tokens(tiny_model: str, prompts: list[list[int]]) -> None:
    """It is not exact; most first tokens stay, and the bytes are those predicted."""
    case = EngineCase(
        tiny_model,
        Layout(tp=2),
        ascend_ext={"attn_scatter": {"enabled": True, "full": True, "fp8_wire": True, "min_tokens": 1}},
        engine_args=ENGINE_ARGS,
    )
    for plain, always in _phases(case, prompts, [NEVER, 1]):
        same = sum(a[0] == b[0] for a, b in zip(plain["tokens"], always["tokens"], strict=True))
        assert 0.8 * len(prompts) <= same
        assert plain["tokens"] != always["tokens"]  # or the wire was not used
        sent = sum(counts["bytes"] for counts in always["traffic"]["attn_scatter"].values())
        assert sent == always["attn_scatter"]["predicted_bytes"] > 0
