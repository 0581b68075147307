# SPDX-License-Identifier: Apache-2.0
"""What our model runner costs: the device's own runner, ours with everything off, ours with every feature on.

Two engines that are alike in every respect differ by several per cent in speed (where their memory lies), far
more than what is measured here. So all variants run in one engine: between generations the runner's class and
hooks are exchanged, in the order A B C, C B A, ..., and each generation is compared with the baseline's
generation of its own turn. Generations are short and many, because a shared machine's speed drifts within
seconds. The first turn is not counted. Several engines are measured one after the other.

    python benchmarks/overhead.py --model tests/assets/tiny-deepseek
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

from report import print_machine, spread  # noqa: E402

from vllm_ascend_ext.integration.engine import EngineCase  # noqa: E402
from vllm_ascend_ext.integration.ranks import Rank, preload, run_ranks  # noqa: E402

BASELINE, OFF, ON = "the device's own runner", "everything off", "eplb_load on"
VARIANTS = (BASELINE, OFF, ON)


@dataclass(frozen=True)
class Turn:
    """Seconds of one generation by each variant, by the wall clock and by this process's CPU time."""

    wall: dict[str, float]
    cpu: dict[str, float]


class Switch:
    """Turns the runner of a live engine into each variant and back."""

    def __init__(self, runner: Any) -> None:
        from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner
        from vllm_ascend_ext.integration.expert_load import moe_layers

        self.runner, self.features = runner, runner.step_features
        self.classes = {BASELINE: TorchCPUModelRunner, OFF: type(runner), ON: type(runner)}
        self.routers = [layer.router for layer in moe_layers(runner).values()]
        self.captures = [router.capture_fn for router in self.routers]

    def to(self, variant: str) -> None:
        self.runner.__class__ = self.classes[variant]
        self.runner.step_features = self.features if variant == ON else None
        for router, capture in zip(self.routers, self.captures, strict=True):
            router.set_capture_fn(capture if variant == ON else None)


def run_engine(case: EngineCase, num_prompts: int, max_tokens: int, num_turns: int) -> list[Turn]:
    """One engine, `num_turns` counted turns."""

    def job(rank: Rank) -> list[Turn]:
        from vllm import LLM, SamplingParams

        llm = LLM(**case.llm_arguments())
        switch = Switch(llm.llm_engine.model_executor.driver_worker.worker.model_runner)
        prompts = [{"prompt_token_ids": [5 + i % 200, 17, 42, 99]} for i in range(num_prompts)]
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        turns = []
        for index in range(num_turns + 1):
            turn = Turn({}, {})
            for variant in VARIANTS if index % 2 else reversed(VARIANTS):
                switch.to(variant)
                wall, cpu = time.perf_counter(), time.process_time()
                llm.generate(prompts, params, use_tqdm=False)
                turn.wall[variant] = time.perf_counter() - wall
                turn.cpu[variant] = time.process_time() - cpu
            turns.append(turn)
        return turns[1:]

    return run_ranks(job, case.layout, deadline_s=900)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/assets/tiny-deepseek")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--turns", type=int, default=150, help="turns measured in each engine")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=12)
    parser.add_argument("--k", type=int, default=0, help="draft tokens a step")
    arguments = parser.parse_args()
    preload()
    import torch
    import vllm

    print_machine(torch, vllm)
    case = EngineCase(
        arguments.model, num_speculative_tokens=arguments.k, ascend_ext={"eplb_load": {"enabled": True}}
    )
    turns = [
        turn
        for _ in range(arguments.engines)
        for turn in run_engine(case, arguments.prompts, arguments.max_tokens, arguments.turns)
    ]
    num_tokens = arguments.prompts * arguments.max_tokens
    print(f"{len(turns)} turns; median [middle half]; throughput ratios, above 1 is faster than the baseline")
    for variant in VARIANTS:
        speed = num_tokens / statistics.median(turn.wall[variant] for turn in turns)
        wall = spread([turn.wall[BASELINE] / turn.wall[variant] for turn in turns], ".4f")
        cpu = spread([turn.cpu[BASELINE] / turn.cpu[variant] for turn in turns], ".4f")
        print(f"  {variant:24} {speed:7.1f} tokens/s   ratio by wall time {wall}   by CPU time {cpu}")


if __name__ == "__main__":
    main()
