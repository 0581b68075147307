# SPDX-License-Identifier: Apache-2.0
"""Measures what our model runner costs: the device's own runner, ours with everything off, ours with every feature
on.

Two engines that are alike in every respect differ by several per cent in speed (where their memory lies), far
more than what is measured here. So all variants run in one engine: between generations the runner's class and
hooks are exchanged, in the order A B C, C B A, ..., and each generation is compared with the baseline's
generation of its own turn. Generations are short and many, because a shared machine's speed drifts within
seconds. The first turn is not counted. Several engines are measured one after the other.

On one rank, the default, "all features" are `eplb_load` and `mtp_output`; with `--layout DP2xTP2` (expert
parallelism, MTP) all four, where "off" gives vLLM its own exchange of rows and its own forward back.

    python benchmarks/overhead.py --model tests/assets/tiny-deepseek
    python benchmarks/overhead.py --layout DP2xTP2 --k 2 --turns 40
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

from vllm_ascend_ext.mtp_output.ring.backend import installed_backend  # noqa: E402
from vllm_ascend_ext.tools.engine import EngineCase  # noqa: E402
from vllm_ascend_ext.tools.forked_ranks import Layout  # noqa: E402
from vllm_ascend_ext.tools.preload import preload  # noqa: E402

BASELINE, OFF, ON, ALL = "the device's own runner", "everything off", "eplb_load on", "all features on"
VARIANTS = (BASELINE, OFF, ON, ALL)
ONE_RANK = {"eplb_load": {"enabled": True}, "mtp_output": {"enabled": True, "reader": "none"}}
LAYOUTS: dict[str, tuple[Layout, bool, dict[str, Any]]] = {
    "one": (Layout(), False, ONE_RANK),
    "DP2xTP2": (
        Layout(tp=2, dp=2),
        True,
        ONE_RANK | {"dp_gather": {"enabled": True}, "attn_scatter": {"enabled": True, "min_tokens": 1}},
    ),
}


@dataclass(frozen=True)
class Seconds:
    """Holds the seconds of one generation, by the wall clock and by this process's CPU time."""

    wall: float
    cpu: float


class Switch:
    """Turns the runner of a live engine into each variant and back."""

    def __init__(self, worker: Any) -> None:
        from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner
        from vllm_ascend_ext.integration.upstream.moe_layers import moe_layers

        runner = worker.model_runner
        self.runner, self.observers, self.outputs = runner, runner.step_observers, runner.step_outputs
        self.classes = dict.fromkeys(VARIANTS, type(runner)) | {BASELINE: TorchCPUModelRunner}
        self.layers = list(moe_layers(runner).values())
        self.captures = [layer.router.capture_fn for layer in self.layers]
        self.put = self._exchanges() if "dp_gather" in worker.bound_features else []
        if scatter := worker.bound_features.get("attn_scatter"):
            model = scatter.model
            self.put.append(lambda on: model.put_forward(model.forward if on else model._plain_forward))

    def _exchanges(self) -> list[Callable[[bool], None]]:
        """Returns what gives the layers our exchange of rows, or vLLM's, as `dp_gather` found it."""
        from vllm.distributed import get_ep_group
        from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager

        communicator = get_ep_group().device_communicator
        ours = communicator.all2all_manager
        theirs = AgRsAll2AllManager(ours.cpu_group)
        places = [(communicator, "all2all_manager", ours, theirs)]
        for layer in self.layers:
            for owner, name in ((layer.runner, "_sequence_parallel_context"), (layer.router, "_compute_routing")):
                if name in vars(owner):  # wrapped on the object; the class has vLLM's
                    places.append((owner, name, vars(owner)[name], getattr(type(owner), name).__get__(owner)))
        return [
            lambda on, place=place: setattr(place[0], place[1], place[2] if on else place[3])  # type: ignore[misc]
            for place in places
        ]

    def to(self, variant: str) -> None:
        self.runner.__class__ = self.classes[variant]
        self.runner.step_observers = self.observers if variant in (ON, ALL) else ()
        self.runner.step_outputs = self.outputs if variant == ALL else None
        for layer, capture in zip(self.layers, self.captures, strict=True):
            layer.router.set_capture_fn(capture if variant in (ON, ALL) else None)
        for put in self.put:
            put(variant == ALL)

    def measure(self, variant: str, generate: Callable[[], Any]) -> Seconds:
        self.to(variant)
        wall, cpu = time.perf_counter(), time.process_time()
        generate()
        return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/assets/tiny-deepseek")
    parser.add_argument("--layout", choices=LAYOUTS, default="one")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--turns", type=int, default=150, help="turns measured in each engine")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=12)
    parser.add_argument("--k", type=int, default=0, help="draft tokens a step")
    arguments = parser.parse_args()
    preload()
    import torch
    import vllm

    print_machine(torch, vllm, setting=f"channel in {installed_backend().name}")
    layout, expert_parallel, features = LAYOUTS[arguments.layout]
    case = EngineCase(
        arguments.model,
        layout,
        expert_parallel=expert_parallel,
        num_speculative_tokens=arguments.k,
        ascend_ext=features | {"mtp_output": features["mtp_output"] | {"instance": os.getpid()}},
        engine_args={"async_scheduling": False},
    )
    turns = [
        turn
        for _ in range(arguments.engines)
        for turn in run_turns(
            case,
            VARIANTS,
            lambda worker: Switch(worker).measure,
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
    for variant in (ON, ALL):
        wall = spread([turn[OFF].wall / turn[variant].wall for turn in turns], ".4f")
        print(f"  {variant:24} over everything off: ratio by wall time {wall}")


if __name__ == "__main__":
    main()
