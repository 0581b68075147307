# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend as it is on an A3, emulated: MC2 in small steps, all-to-all in larger ones, transformers' tokens."""

from __future__ import annotations

import pytest

from tests.support.a3_engines import A3Run, run_on_a3
from tests.support.reference import make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.emulator, pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 12
MODEL = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
# MC2 takes steps of up to max_num_seqs tokens
ENGINE = {"max_num_batched_tokens": 64, "max_num_seqs": 6}
LAYOUTS = {"TP2": Layout(tp=2), "DP2": Layout(dp=2)}

Runs = tuple[dict[str, A3Run], list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> Runs:
    """Every layout's run, with experts on both ranks, and transformers' tokens."""
    prompts = make_prompts(tiny_model)[:6]
    model = write_model(tmp_path_factory.mktemp("Qwen3-MoE"), tiny_model, "Qwen3MoeConfig", **MODEL)
    cases = {
        name: EngineCase(model, layout, expert_parallel=True, engine_args=ENGINE)
        for name, layout in LAYOUTS.items()
    }
    ours = run_on_a3(tmp_path_factory.mktemp("A3"), cases, prompts, NUM_TOKENS, deadline_s=240)
    return ours, transformers_tokens(model, prompts, NUM_TOKENS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_tokens_equal_transformers(runs: Runs, name: str) -> None:
    run, expected = runs[0][name], runs[1]
    assert run.result.token_ids == expected
    assert run.dispatches["MC2"] > 0
    assert run.dispatches["All2AllV"] > 0
    assert run.dispatches["AllGather"] == 0
