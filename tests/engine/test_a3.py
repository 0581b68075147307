# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend as it is on an A3, emulated: MC2 in small steps, all-to-all in larger ones, transformers' tokens.

With expert load counted the same is in tests/eplb_load/vllm_ascend/test_a3.py, which .ci/run runs.
"""

from __future__ import annotations

import pytest

from tests.support.engines.a3 import A3Run, run_on_a3
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
# MC2 takes steps of up to max_num_seqs tokens, times the tokens of a request with its drafts
ENGINE = {"max_num_batched_tokens": 64, "max_num_seqs": 6}
# name -> model, layout, drafts; experts on all ranks
CASES = {
    "Qwen3-MoE TP2": ("Qwen3-MoE", Layout(tp=2), 0),
    "Qwen3-MoE DP2": ("Qwen3-MoE", Layout(dp=2), 0),
    "Qwen3-MoE DP2xTP2": ("Qwen3-MoE", Layout(tp=2, dp=2), 0),
    "DeepSeek TP2 MTP2": ("DeepSeek", Layout(tp=2), 2),
}

Runs = tuple[dict[str, A3Run], dict[str, list[tuple[int, ...]]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> Runs:
    """Every case's run, and transformers' tokens by model."""
    prompts = make_prompts(tiny_model)[:6]
    qwen = write_qwen3_moe(tmp_path_factory.mktemp("Qwen3-MoE"), tiny_model)
    models = {"Qwen3-MoE": qwen, "DeepSeek": tiny_model}
    cases = {
        # drafts without asynchronous scheduling, under which vLLM has a race of its own (test_vllm_ascend.py)
        name: EngineCase(
            models[model],
            layout,
            expert_parallel=True,
            num_speculative_tokens=drafts,
            engine_args=ENGINE | ({"async_scheduling": False} if drafts else {}),
        )
        for name, (model, layout, drafts) in CASES.items()
    }
    ours = run_on_a3(tmp_path_factory.mktemp("A3"), cases, prompts, NUM_TOKENS, deadline_s=240)
    used = {model for model, _, _ in CASES.values()}
    return ours, {model: transformers_tokens(models[model], prompts, NUM_TOKENS) for model in sorted(used)}


@pytest.mark.parametrize("name", CASES)
def test_tokens_equal_transformers(runs: Runs, name: str) -> None:
    run, expected = runs[0][name], runs[1][CASES[name][0]]
    assert run.result.token_ids == expected
    assert run.dispatches["MC2"] > 0
    assert run.dispatches["All2AllV"] > 0
    assert run.dispatches["AllGather"] == 0
