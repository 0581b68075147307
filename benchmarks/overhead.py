# SPDX-License-Identifier: Apache-2.0
"""What our runner costs: the same engine without an `ascend_ext` section, with everything off, and with every
feature on. (On the CPU the platform is ours in all three; on other devices the first is vLLM as it comes.)

Runs the variants in turn (A B C, C B A, ...) so that whatever else the machine does falls on all of them, and
prints ratios of throughput with their spread. Each round is a fresh engine; a round's warm-up generation is not
measured. Two clocks: wall time, and the process's CPU time, which other processes disturb less.

    python benchmarks/overhead.py --model tests/assets/tiny-deepseek
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

from vllm_ascend_ext.integration.engine import EngineCase  # noqa: E402
from vllm_ascend_ext.integration.ranks import Rank, preload, run_ranks  # noqa: E402

BASELINE = "without ascend_ext"
VARIANTS: dict[str, dict[str, Any] | None] = {
    BASELINE: None,
    "everything off": {},
    "eplb_load on": {"eplb_load": {"enabled": True}},
}


@dataclass(frozen=True)
class Round:
    wall_tokens_per_s: float
    cpu_tokens_per_s: float


def run_round(case: EngineCase, num_prompts: int, max_tokens: int, repeats: int) -> Round:
    """One engine, `repeats` measured generations; the fastest counts."""

    def job(rank: Rank) -> Round:
        from vllm import LLM, SamplingParams

        llm = LLM(**case.llm_arguments())
        prompts = [{"prompt_token_ids": [5 + i % 200, 17, 42, 99]} for i in range(num_prompts)]
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        llm.generate(prompts, params, use_tqdm=False)
        best = Round(0.0, 0.0)
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            llm.generate(prompts, params, use_tqdm=False)
            num_tokens = num_prompts * max_tokens
            best = Round(
                max(best.wall_tokens_per_s, num_tokens / (time.perf_counter() - wall)),
                max(best.cpu_tokens_per_s, num_tokens / (time.process_time() - cpu)),
            )
        return best

    return run_ranks(job, case.layout, deadline_s=600)[0]


def spread(values: list[float]) -> str:
    """Median and the middle half of the values."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.4f} [{low:.4f}, {high:.4f}]"


def print_machine() -> None:
    import torch
    import vllm

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "?")
    print(f"machine: {cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    print(f"versions: python {platform.python_version()}, torch {torch.__version__}, vllm {vllm.__version__}")
    print(f"commit: {commit or 'unknown'}; command: {' '.join(sys.argv)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/assets/tiny-deepseek")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, help="generations measured in a round")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--k", type=int, default=0, help="draft tokens a step")
    arguments = parser.parse_args()
    preload()
    print_machine()
    results: dict[str, list[Round]] = {name: [] for name in VARIANTS}
    for index in range(arguments.rounds):
        order = list(VARIANTS) if index % 2 == 0 else list(reversed(VARIANTS))
        for name in order:
            case = EngineCase(
                arguments.model, num_speculative_tokens=arguments.k, ascend_ext=VARIANTS[name]
            )
            results[name].append(
                run_round(case, arguments.prompts, arguments.max_tokens, arguments.repeats)
            )
    baseline = results[BASELINE]
    for name, rounds in results.items():
        print(f"\n{name}: {statistics.median(r.wall_tokens_per_s for r in rounds):.1f} tokens/s (median)")
        for clock in ("wall_tokens_per_s", "cpu_tokens_per_s"):
            ratios = [getattr(a, clock) / getattr(b, clock) for a, b in zip(rounds, baseline, strict=True)]
            print(f"  ratio to '{BASELINE}' by {clock.split('_')[0]} time: {spread(ratios)}")


if __name__ == "__main__":
    main()
