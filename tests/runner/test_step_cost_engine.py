# SPDX-License-Identifier: Apache-2.0
"""The counter of a step's cost in an engine with all four features: it sees each of them, and changes no token."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from tests.support.long_tables import long_table
from tests.support.reference import NUM_TOKENS, make_prompts, transformers_tokens
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

FEATURES = {
    "eplb_load": {"enabled": True, "interval": 3},
    "dp_gather": {"enabled": True},
    "attn_scatter": {"enabled": True, "min_tokens": 1},
    "mtp_output": {"enabled": True, "reader": "none", "top_k": 0},
}
OF_ALL_RANKS = {
    ("runner", "begin step"),
    ("runner", "end step"),
    ("eplb_load", "routing"),
    ("eplb_load", "begin_forward"),
    ("eplb_load", "end_step"),
    ("dp_gather", "plan"),
    ("dp_gather", "gather"),
    ("dp_gather", "combine"),
    ("attn_scatter", "forward"),
    ("mtp_output", "begin_step"),
    ("mtp_output", "sampled"),
    ("not ours", "collectives"),
    ("not ours", "model"),
}
OF_SENDERS = {("mtp_output", part) for part in ("pack and copy", "judge and frame", "ring")}
CASE = EngineCase(
    "",
    Layout(tp=2, dp=2),
    expert_parallel=True,
    num_speculative_tokens=2,
    engine_args={"enable_prefix_caching": False, "async_scheduling": False},
)


def _measured(rank: Rank, case: EngineCase, prompts: list[list[int]]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    llm = LLM(**case.llm_arguments())
    worker = llm.llm_engine.model_executor.driver_worker.worker
    runner = worker.model_runner
    own = prompts[rank.dp_rank :: rank.dp_size]
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)

    def state() -> list[Any]:
        collection = worker.bound_features["eplb_load"].collection
        hooks = [layer.router.capture_fn for layer in worker.stack.moe_layers(runner).values()]
        places = [runner.step_observers, runner.step_outputs, runner.get_model().model.forward, hooks]
        return [*places, sorted(vars(collection)), sorted(vars(runner.step_outputs))]

    def generate() -> list[tuple[int, ...]]:
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in own], params, use_tqdm=False)
        return [tuple(output.outputs[0].token_ids) for output in outputs]

    before = state()
    answers = [llm.collective_rpc("ascend_ext_step_cost")[0]]
    answers += [llm.collective_rpc("ascend_ext_step_cost", args=(True,))[0]]
    first = runner._step
    tokens = [generate()]
    answers += [llm.collective_rpc("ascend_ext_step_cost", args=(measure,))[0] for measure in (None, False)]
    num_steps, is_restored = runner._step - first, state() == before
    tokens += [generate()]
    answers += llm.collective_rpc("ascend_ext_step_cost")
    return {"tokens": tokens, "answers": answers, "num_steps": num_steps, "is_restored": is_restored}


@long_table
def test_all_features_are_seen_and_tokens_stay(tiny_model: str) -> None:
    prompts = make_prompts(tiny_model)[:12]
    features = FEATURES | {"mtp_output": FEATURES["mtp_output"] | {"instance": os.getpid()}}
    case = dataclasses.replace(CASE, model=tiny_model, ascend_ext=features)
    ranks = run_ranks(lambda rank: _measured(rank, case, prompts), case.layout, deadline_s=300)
    expected = transformers_tokens(tiny_model, prompts, NUM_TOKENS)
    for index, rank in enumerate(ranks):
        assert rank["tokens"] == [expected[index // 2 :: 2]] * 2
        nothing, begun, running, ended, afterwards = rank["answers"]
        assert nothing is None and begun is None and rank["is_restored"]
        assert running == ended == afterwards
        assert ended["rank"] == index and ended["steps"] == rank["num_steps"] > 0
        calls = {(part["feature"], part["part"]): part["calls"] for part in ended["parts"]}
        assert set(calls) >= OF_ALL_RANKS | (OF_SENDERS if index % 2 == 0 else set())
        assert calls["eplb_load", "begin_forward"] == calls["eplb_load", "end_step"] == ended["steps"]
        for part in ended["parts"]:
            low, middle, high = part["us_per_step"]
            assert part["thread_us"] > 0 and low <= middle <= high
