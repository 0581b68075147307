# SPDX-License-Identifier: Apache-2.0
"""Measures the thread time that our features add to a step, feature by feature and part by part.

An engine of two replicas of two ranks with expert parallelism and MTP, where all four features run, is measured by
`StepCost`, the counter that a server's workers have (`ascend_ext_step_cost`). `attn_scatter` takes every step,
also those that its cost model would leave alone. Thread time does not contain what a thread waits for, so that
other work on the machine changes it by what caches lose only. With `--baseline` a checkout of an older commit that
has the counter is measured in turns with this one.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --layout one --baseline ../before
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

from report import print_machine  # noqa: E402

from vllm_ascend_ext.mtp_output.ring.backend import installed_backend  # noqa: E402
from vllm_ascend_ext.tools.engine import EngineCase  # noqa: E402
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks  # noqa: E402
from vllm_ascend_ext.tools.preload import preload  # noqa: E402

THEIRS = "not ours"
ONE = {
    "eplb_load": {"enabled": True, "interval": 10},
    "mtp_output": {"enabled": True, "reader": "none", "top_k": 0},
}
ALL = {
    **ONE,
    "dp_gather": {"enabled": True},
    "attn_scatter": {"enabled": True, "min_tokens": 1},
}
LAYOUTS = {"one": (Layout(), False, ONE), "DP2xTP2": (Layout(tp=2, dp=2), True, ALL)}

Report = dict[str, Any]


def measure(arguments: argparse.Namespace) -> list[Report]:
    """Runs an engine; returns what `StepCost` says of each rank."""
    layout, expert_parallel, features = LAYOUTS[arguments.layout]
    features = features | {"mtp_output": features["mtp_output"] | {"instance": os.getpid()}}
    case = EngineCase(
        arguments.model,
        layout,
        expert_parallel=expert_parallel,
        num_speculative_tokens=arguments.k,
        ascend_ext=features,
        engine_args={"enable_prefix_caching": False, "async_scheduling": False},
    )

    def job(rank: Rank) -> Report:
        from vllm import LLM, SamplingParams

        llm = LLM(**case.llm_arguments())
        prompts = [{"prompt_token_ids": [5 + i % 200, 17, 42, 99]} for i in range(arguments.prompts)]
        params = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens, ignore_eos=True)
        for is_measured in (False, True):
            llm.collective_rpc("ascend_ext_step_cost", args=(is_measured,))
            for _ in range(arguments.rounds if is_measured else 3):
                llm.generate(prompts, params, use_tqdm=False)
        report: Report = llm.collective_rpc("ascend_ext_step_cost", args=(False,))[0]
        return report

    return run_ranks(job, layout, deadline_s=500)


def in_turns(arguments: argparse.Namespace) -> dict[str, list[list[Report]]]:
    """Measures both checkouts in processes of their own, in turns: A B, B A, ..."""
    here = Path(__file__).resolve().parent.parent
    checkouts = {"before": Path(arguments.baseline).resolve(), "now": here}
    found: dict[str, list[list[Report]]] = {name: [] for name in checkouts}
    for turn in range(arguments.turns):
        for name in sorted(checkouts, reverse=bool(turn % 2)):
            command = [sys.executable, __file__, *sys.argv[1:], "--json"]
            environment = os.environ | {"PYTHONPATH": str(checkouts[name])}
            done = subprocess.run(
                command, env=environment, cwd=checkouts[name], capture_output=True, text=True, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def rows_of(runs: list[list[Report]], rank: int) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """Returns (calls a step, lower quartile, median, upper quartile) of each part; of several runs the medians."""
    by_part: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for run in runs:
        for part in run[rank]["parts"]:
            row = (part["calls"] / run[rank]["steps"], *part["us_per_step"])
            by_part.setdefault((part["feature"], part["part"]), []).append(row)
    return {
        part: tuple(statistics.median(column) for column in zip(*rows, strict=True))  # type: ignore[misc]
        for part, rows in by_part.items()
    }


def print_rank(named_runs: dict[str, list[list[Report]]], rank: int) -> None:
    tables = {name: rows_of(runs, rank) for name, runs in named_runs.items()}
    steps = [runs[0][rank]["steps"] for runs in named_runs.values()]
    print(f"rank {rank}, {steps[-1]} steps a run, microseconds of thread time a step: median [middle half]")
    for part in dict.fromkeys(part for table in tables.values() for part in table):
        columns = []
        for name, table in tables.items():
            calls, low, middle, high = table.get(part, (0.0, 0.0, 0.0, 0.0))
            columns.append(f"{name}: {middle:8.1f} [{low:.1f}, {high:.1f}] in {calls:.2f} calls")
        print(f"  {part[0]:13} {part[1]:18} " + "   ".join(columns))
    for feature in dict.fromkeys(part[0] for table in tables.values() for part in table):
        sums = [
            f"{name}: {sum(row[2] for part, row in table.items() if part[0] == feature):8.1f}"
            for name, table in tables.items()
        ]
        print(f"  {feature:13} {'all parts':18} " + "   ".join(sums))
    sums = [
        f"{name}: {sum(row[2] for part, row in table.items() if part[0] != THEIRS):8.1f}"
        for name, table in tables.items()
    ]
    print(f"  {'ours':13} {'all features':18} " + "   ".join(sums))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/assets/tiny-deepseek")
    parser.add_argument("--layout", choices=LAYOUTS, default="DP2xTP2")
    parser.add_argument("--prompts", type=int, default=8, help="of each replica")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--k", type=int, default=2, help="draft tokens a step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--baseline", default="", help="checkout of an older commit")
    parser.add_argument("--turns", type=int, default=3, help="engines of each checkout, with --baseline")
    parser.add_argument("--json", action="store_true", help="measure this checkout and print the reports only")
    arguments = parser.parse_args()
    if arguments.json:
        preload()
        print(json.dumps(measure(arguments)))
        return
    import torch
    import vllm

    print_machine(torch, vllm, setting=f"channel in {installed_backend().name}")
    if arguments.baseline:
        named_runs = in_turns(arguments)
    else:
        preload()
        named_runs = {"now": [measure(arguments)]}
    for rank in range(min(2, len(named_runs["now"][0]))):
        print_rank(named_runs, rank)


if __name__ == "__main__":
    main()
