# SPDX-License-Identifier: Apache-2.0
"""Measures how long a decode pass stands still for the replicas' row counts: asked for before it, beside it, known
ahead.

All ways run in one engine of two replicas, one generation each in turns, in the order A B C, C B A, ...; the first
turn is not counted. Under this launcher the replicas meet before every pass anyway, so that what is seen is the
round trip, not the time by which one replica is late: that one it costs in the first layer that exchanges rows,
whichever way the counts went.

    python benchmarks/counts_ahead.py --model tests/assets/tiny-deepseek
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

from report import print_machine, spread  # noqa: E402
from turns import run_turns  # noqa: E402

from vllm_ascend_ext.integration.dp_gather.counts.row_counts import AskedCounts, RowCounts  # noqa: E402
from vllm_ascend_ext.tools.engine import EngineCase  # noqa: E402
from vllm_ascend_ext.tools.forked_ranks import Layout  # noqa: E402
from vllm_ascend_ext.tools.preload import preload  # noqa: E402

BEFORE, BESIDE, AHEAD = "asked before the pass", "asked beside the pass", "known ahead"
WAYS = (BEFORE, BESIDE, AHEAD)


@dataclass(frozen=True)
class APass:
    """Microseconds a pass of the target model: standing still for counts, and all together."""

    wait: float
    wall: float


class Watched:
    """Counts one runner's passes and the seconds of asking, around the way that its counts are known.

    asks: passes ask before they begin, by vLLM's function, whose time is waiting.
    """

    def __init__(self, counts: RowCounts, *, asks: bool) -> None:
        self.counts, self.asks = counts, asks
        self.num_passes, self.asking_s = 0, 0.0

    def counts_of_target_pass(self, *args: Any, **kwargs: Any) -> Any:
        self.num_passes += 1
        started = time.perf_counter()
        result = self.counts.counts_of_target_pass(*args, **kwargs)
        self.asking_s += (time.perf_counter() - started) * self.asks
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.counts, name)


class Switch:
    """Lets a live engine's passes know their counts in each way, and counts passes and waiting."""

    def __init__(self, worker: Any) -> None:
        self._runner, self._planner = worker.model_runner, worker.bound_features["dp_gather"].planner
        self._ahead = self._planner.counts

    def to(self, way: str) -> Watched:
        """Switches to another way from the next pass on, on all ranks alike."""
        from vllm_ascend_ext.integration.dp_gather.counts.install import install_counts

        self._ahead.reset()
        self._ahead.wait()
        self._ahead._arriving = None  # of the last pass that this way had; what it promised is long over
        counts = {BEFORE: AskedCounts(), BESIDE: self._ahead._asking, AHEAD: self._ahead}[way]
        self._planner.counts = watched = Watched(counts, asks=way == BEFORE)
        install_counts(self._runner, watched)
        return watched

    def measure(self, way: str, generate: Callable[[], Any]) -> APass:
        watched = self.to(way)
        started = time.perf_counter()
        generate()
        wall_s = time.perf_counter() - started
        report = self._ahead.report()
        waited_s = float(watched.asking_s + report["wait_s"] + report["exchange_wait_s"])
        return APass(waited_s / watched.num_passes * 1e6, wall_s / watched.num_passes * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/assets/tiny-deepseek")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=8, help="of each replica")
    parser.add_argument("--max-tokens", type=int, default=24)
    arguments = parser.parse_args()
    preload()
    import torch
    import vllm

    print_machine(torch, vllm, setting="2 replicas")
    section = {"enabled": True, "overlap_counts": True, "counts_ahead": True}
    case = EngineCase(arguments.model, Layout(dp=2), expert_parallel=True, ascend_ext={"dp_gather": section})
    turns = run_turns(
        case,
        WAYS,
        lambda worker: Switch(worker).measure,
        num_prompts=arguments.prompts,
        max_tokens=arguments.max_tokens,
        num_turns=arguments.turns,
    )
    print(f"{len(turns)} turns; median [middle half], microseconds a pass")
    for way in WAYS:
        wait = spread([turn[way].wait for turn in turns], ".0f")
        ratio = spread([turn[BEFORE].wall / turn[way].wall for turn in turns], ".3f")
        print(f"  {way:22} waits {wait:20} of {spread([turn[way].wall for turn in turns], '.0f')}, speed {ratio}")


if __name__ == "__main__":
    main()
