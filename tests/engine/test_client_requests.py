# SPDX-License-Identifier: Apache-2.0
"""Requests that any client may send, and with which vLLM alone hangs, fails or gives other tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dp_gather.test_engine import make_prompts
from tests.support.long_tables import long_table
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS, LONGEST = 24, 128
GATHER = {"dp_gather": {"enabled": True, "deadline_s": 20}, "eplb_load": {"enabled": True}}
AHEAD = {"dp_gather": {"enabled": True, "deadline_s": 20, "counts_ahead": True}}


@pytest.mark.parametrize(
    ("num_drafts", "ascend_ext"),
    [
        pytest.param(2, GATHER, id="features on"),
        pytest.param(1, None, id="features off", marks=long_table),
        pytest.param(3, AHEAD, id="counts ahead", marks=long_table),
    ],
)
def test_a_request_that_reaches_the_longest_sequence_stops_no_replica(
    tiny_model: str, num_drafts: int, ascend_ext: dict[str, Any] | None
) -> None:
    """Its last steps have no drafts, while the other replica drafts, and goes on drafting alone."""
    longest = {"max_model_len": LONGEST}
    prompts = make_prompts(tiny_model, [LONGEST - NUM_TOKENS // 2, 9])
    plain = run_engine(
        EngineCase(tiny_model, engine_args=longest), prompts, max_tokens=NUM_TOKENS, deadline_s=120
    ).token_ids
    assert [len(tokens) for tokens in plain] == [NUM_TOKENS // 2, NUM_TOKENS]
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        num_speculative_tokens=num_drafts,
        ascend_ext=ascend_ext,
        engine_args=longest | ({"async_scheduling": True} if ascend_ext is AHEAD else {}),
    )
    assert run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=120).token_ids == plain


EMBEDDED = (0, 2, 3)  # prompts that come as embeddings
# chunks of prompts beside others' decoding, and a cache that cannot hold all requests
CROWDED = {
    "max_model_len": LONGEST,
    "num_gpu_blocks_override": 14,
    "block_size": 16,
    "enable_prefix_caching": False,
    "max_num_batched_tokens": 64,
}


def _generate(case: EngineCase, prompts: list[list[int]], embedded: tuple[int, ...]) -> tuple[list[Any], float]:
    """Returns the tokens of two rounds, one after the other, and how often a request was preempted."""

    def job(rank: Rank) -> tuple[list[Any], float]:
        import torch
        from safetensors import safe_open
        from vllm import LLM, SamplingParams

        with safe_open(f"{case.model}/model.safetensors", "pt") as weights:
            table = weights.get_tensor("model.embed_tokens.weight").float()
        requests: list[Any] = [
            {"prompt_embeds": table[torch.tensor(ids)]} if index in embedded else {"prompt_token_ids": ids}
            for index, ids in enumerate(prompts)
        ]
        llm = LLM(**case.llm_arguments())
        options = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        rounds = [llm.generate(requests, options, use_tqdm=False) for _ in range(2)]
        tokens = [tuple(output.outputs[0].token_ids) for outputs in rounds for output in outputs]
        preemptions = [m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"]
        return tokens, sum(preemptions)

    return run_ranks(job, case.layout, deadline_s=120)[0]


def test_prompt_embeddings_and_drafts(tiny_model: str) -> None:
    """Embeddings are the model's own, so that the plain engine's tokens are the right ones for all prompts."""
    prompts = make_prompts(tiny_model, [40, 9, 23, 70, 31, 5])
    plain, _ = _generate(EngineCase(tiny_model), prompts, ())
    arguments = CROWDED | {"enable_prompt_embeds": True, "async_scheduling": True}
    case = EngineCase(tiny_model, num_speculative_tokens=2, engine_args=arguments)
    for embedded in ((), EMBEDDED):
        tokens, num_preemptions = _generate(case, prompts, embedded)
        assert tokens == plain, f"embedded: {embedded}"
        assert num_preemptions > 0
