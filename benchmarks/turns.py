# SPDX-License-Identifier: Apache-2.0
"""Variants that take turns in one engine, a generation each: two equal engines differ by more than is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Rank, run_ranks

Measured = TypeVar("Measured")
Measure = Callable[[str, Callable[[], Any]], Measured]


def run_turns(
    case: EngineCase,
    variants: Sequence[str],
    make_measure: Callable[[Any], Measure[Measured]],
    *,
    num_prompts: int,
    max_tokens: int,
    num_turns: int,
) -> list[dict[str, Measured]]:
    """Runs `num_turns` turns of all variants in the order A B C, C B A, ..., after one that is not counted;
    returns what the first rank saw.

    make_measure: worker → what makes a variant run, generates, and returns what was measured.
    """

    def job(rank: Rank) -> list[dict[str, Measured]]:
        from vllm import LLM, SamplingParams

        llm = LLM(**case.llm_arguments())
        measure = make_measure(llm.llm_engine.model_executor.driver_worker.worker)
        prompts = [{"prompt_token_ids": [5 + i % 200, 17, 42, 99]} for i in range(num_prompts)]
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)

        def generate() -> None:
            llm.generate(prompts, params, use_tqdm=False)

        turns = []
        for index in range(num_turns + 1):
            order = variants if index % 2 else reversed(variants)
            turns.append({variant: measure(variant, generate) for variant in order})
        return turns[1:]

    return run_ranks(job, case.layout, deadline_s=900)[0]
