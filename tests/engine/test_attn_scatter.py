# SPDX-License-Identifier: Apache-2.0
"""Tokens with scattered attention input equal those of vLLM's own layers, whatever the rows of a step."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.engine.reference import make_prompts
from vllm_ascend_ext.integration.engine import EngineCase, even_split
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
    counts = even_split(len(prompts), case.layout.dp)

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


@pytest.mark.parametrize("num_speculative_tokens", [0, 2], ids=["plain", "mtp"])
@pytest.mark.parametrize("full", [False, True], ids=["input", "full"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_and_bytes(
    tiny_model: str, prompts: list[list[int]], layout: str, full: bool, num_speculative_tokens: int
) -> None:
    case = EngineCase(
        tiny_model,
        LAYOUTS[layout],
        expert_parallel="EP" in layout,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext={
            "attn_scatter": {"enabled": True, "full": full, "min_tokens": 1},
            "eplb_load": {"enabled": True},
        },
        engine_args=ENGINE_ARGS,
    )
    for plain, always, some in _phases(case, prompts, [NEVER, 1, 40]):
        assert plain["attn_scatter"]["num_scattered"] == 0 and not plain["traffic"]["attn_scatter"]
        assert always["attn_scatter"]["num_plain"] == 0
        assert some["attn_scatter"]["num_plain"] > 0
        for phase in (always, some):
            assert phase["attn_scatter"]["num_scattered"] > 0
            assert phase["tokens"] == plain["tokens"]
            sent = sum(counts["bytes"] for counts in phase["traffic"]["attn_scatter"].values())
            assert sent == phase["attn_scatter"]["predicted_bytes"]
            assert phase["load"] == plain["load"]
