# SPDX-License-Identifier: Apache-2.0
"""Measures what our model runner costs: the device's own runner, ours with everything off, ours with every feature
on.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

from report import print_machine, spread  # noqa: E402
from turns import run_turns  # noqa: E402

from vllm_ascend_ext.tools.engine import EngineCase  # noqa: E402
from vllm_ascend_ext.tools.preload import preload  # noqa: E402

BASELINE, OFF, ON = "the device's own runner", "everything off", "eplb_load on"
VARIANTS = (BASELINE, OFF, ON)


@dataclass(frozen=True)
class Seconds:
    """Holds the seconds of one generation, by the wall clock and by this process's CPU time."""

    wall: float
    cpu: float


class Switch:
    """Turns the runner of a live engine into each variant and back."""

    def __init__(self, runner: Any) -> None:
        from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner
        from vllm_ascend_ext.integration.upstream.moe_layers import moe_layers

        self.runner, self.observers = runner, runner.step_observers
        self.classes = {BASELINE: TorchCPUModelRunner, OFF: type(runner), ON: type(runner)}
        self.routers = [layer.router for layer in moe_layers(runner).values()]
        self.captures = [router.capture_fn for router in self.routers]

    def to(self, variant: str) -> None:
        self.runner.__class__ = self.classes[variant]
        self.runner.step_observers = self.observers if variant == ON else ()
        for router, capture in zip(self.routers, self.captures, strict=True):
            router.set_capture_fn(capture if variant == ON else None)

    def measure(self, variant: str, generate: Callable[[], Any]) -> Seconds:
        self.to(variant)
        wall, cpu = time.perf_counter(), time.process_time()
        generate()
        return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


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
        for turn in run_turns(
            case,
            VARIANTS,
            lambda worker: Switch(worker.model_runner).measure,
            num_prompts=arguments.prompts,
            max_tokens=arguments.max_tokens,
            num_turns=arguments.turns,
        )
    ]
    num_tokens = arguments.prompts * arguments.max_tokens
    print(f"{len(turns)} turns; median [middle half]; throughput ratios, above 1 is faster than the baseline")
    for variant in VARIANTS:
        speed = num_tokens / statistics.median(turn[variant].wall for turn in turns)
        wall = spread([turn[BASELINE].wall / turn[variant].wall for turn in turns], ".4f")
        cpu = spread([turn[BASELINE].cpu / turn[variant].cpu for turn in turns], ".4f")
        print(f"  {variant:24} {speed:7.1f} tokens/s   ratio by wall time {wall}   by CPU time {cpu}")


if __name__ == "__main__":
    main()
