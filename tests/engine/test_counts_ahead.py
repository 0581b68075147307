# SPDX-License-Identifier: Apache-2.0
"""Counts known one pass ahead, in a real engine: requests arrive while others decode, a replica has nothing to do
for a while, a wave ends and another begins. The tokens are the plain engine's, each pass is planned as it must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.engine.test_dp_gather import ENGINE, _ExpertRows, gathering, make_prompts
from vllm_ascend_ext.integration.engine import EngineCase, run_engine
from vllm_ascend_ext.integration.ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

MAX_TOKENS = 24
LENGTHS = [5, 40, 9, 230, 3, 17, 61]
# wave → (replica, pass from which on it is there, prompt, tokens); the first has a replica that is idle at first
WAVES: tuple[tuple[tuple[int, int, int, int], ...], ...] = (
    ((0, 0, 0, MAX_TOKENS), (0, 0, 1, 9), (0, 6, 2, 8), (1, 9, 3, 6), (1, 11, 4, 12)),
    ((1, 0, 5, 10), (0, 4, 6, 6)),
)


def serve(case: EngineCase) -> list[dict[str, Any]]:
    """What each rank saw: tokens by prompt, the passes of the target model, and the report."""
    prompts = make_prompts(case.model, LENGTHS)

    def job(rank: Rank) -> dict[str, Any]:
        from vllm import LLM, SamplingParams

        llm = LLM(**case.llm_arguments())
        worker = llm.llm_engine.model_executor.driver_worker.worker
        expert_rows, passes = _ExpertRows(worker.model_runner), _watch(worker)
        llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})
        tokens: dict[int, list[int]] = {}
        for wave in WAVES:
            own = [arrival[1:] for arrival in wave if arrival[0] == rank.dp_rank]
            _run_wave(llm, own, prompts, tokens, SamplingParams)
        report = llm.collective_rpc("ascend_ext_report")[0]
        return {
            "tp_rank": rank.tp_rank,
            "tokens": tokens,
            "passes": passes,
            "num_routed": expert_rows.num_routed,
            **report,
        }

    return run_ranks(job, case.layout, deadline_s=200)


def _run_wave(
    llm: Any,
    arrivals: Sequence[tuple[int, int, int]],
    prompts: list[list[int]],
    tokens: dict[int, list[int]],
    params: Any,
) -> None:
    engine, index = llm.llm_engine, 0
    while True:
        for _, prompt, num_tokens in (arrival for arrival in arrivals if arrival[0] == index):
            options = params(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
            engine.add_request(str(prompt), {"prompt_token_ids": prompts[prompt]}, options)
        if not engine.has_unfinished_requests():
            return
        for output in engine.step():
            tokens[int(output.request_id)] = list(output.outputs[0].token_ids)
        index += 1


def _watch(worker: Any) -> list[tuple[bool, int, int]]:
    """Of each pass of the target model from now on: whether planned ahead, its rows, and those before padding."""
    passes: list[tuple[bool, int, int]] = []
    counts, runner = worker.gather_planner.counts, worker.model_runner

    def begins(module: Any, args: Any, kwargs: Any) -> None:
        passes.append((counts.is_ahead, len(kwargs["input_ids"]), counts.num_own_rows))

    runner.get_model().register_forward_pre_hook(begins, with_kwargs=True)
    return passes


@pytest.mark.parametrize("num_speculative_tokens", [0, 1], ids=["plain", "mtp"])
def test_arrivals_idle_replica_and_waves(tiny_model: str, num_speculative_tokens: int) -> None:
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        expert_parallel=True,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext=gathering(counts_ahead=True),
        engine_args=ENGINE,
    )
    ranks = serve(case)
    for rank in ranks:
        print(rank["passes"], rank["dp_counts"], rank["dp_gather"], rank["num_routed"])
    prompts = make_prompts(case.model, LENGTHS)
    expected = run_engine(EngineCase(tiny_model), prompts, max_tokens=MAX_TOKENS, deadline_s=200).token_ids
    tokens = {index: ids for rank in ranks for index, ids in rank["tokens"].items()}
    for wave in WAVES:
        for _, _, prompt, num_tokens in wave:
            assert tuple(tokens[prompt]) == expected[prompt][:num_tokens], prompt
