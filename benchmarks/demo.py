# SPDX-License-Identifier: Apache-2.0
"""Measures the repeated `./scripts/demo.sh` of this checkout beside that of another one.

Runs of both take turns, in the order A B, B A, ..., each is compared with its neighbour, and the first pair, which
fills the caches, is not counted. Every run must give the same tokens. Another checkout is a worktree of the commit
to compare with, whose `.venv` is set up or a link to this one's:

    git worktree add --detach ../before COMMIT && ln -s "$PWD/.venv" ../before/.venv
    python benchmarks/demo.py --baseline ../before
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import print_machine, spread

HERE = Path(__file__).resolve().parent.parent
DEADLINE_S = 600


@dataclass(frozen=True, slots=True)
class Run:
    """Holds one run of the demo.

    clock_s, processor_s: of `./scripts/demo.sh` and all that it starts. parts_s: what its report says.
    """

    clock_s: float
    processor_s: float
    parts_s: dict[str, float]
    token_ids: list[list[int]]


def run_demo(checkout: Path) -> Run:
    """Runs the demo of a checkout. Raises RuntimeError when it fails or finds other tokens on one rank."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    began, used = time.perf_counter(), used_s()
    done = subprocess.run(
        ["./scripts/demo.sh", "--json"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    clock_s, processor_s = time.perf_counter() - began, used_s() - used
    if done.returncode:
        raise RuntimeError(f"{checkout}: status {done.returncode}\n{done.stderr[-2000:]}")
    document: dict[str, Any] = json.loads(done.stdout)
    tokens = [completion["token_ids"] for completion in document["completions"]]
    return Run(clock_s, processor_s, document["seconds"], tokens)


def used_s() -> float:
    """Returns the processor's time in seconds of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def commit_of(checkout: Path) -> str:
    """Returns the short commit of a checkout, with + where files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, required=True, metavar="DIR", help="the checkout to compare with")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs measured, after one that is not")
    options = parser.parse_args()
    import torch
    import vllm

    print_machine(torch, vllm)
    checkouts = {"before": options.baseline.resolve(), "now": HERE}
    for name, checkout in checkouts.items():
        print(f"{name}: {commit_of(checkout)}")
    pairs: list[dict[str, Run]] = []
    for index in range(options.pairs + 1):
        order = list(checkouts) if index % 2 else list(reversed(checkouts))
        pairs.append({name: run_demo(checkouts[name]) for name in order})
    if len({json.dumps(run.token_ids) for pair in pairs for run in pair.values()}) != 1:
        raise RuntimeError("the runs gave different tokens")
    print(f"{options.pairs} pairs, all with the same tokens; median [middle half], load {os.getloadavg()[0]:.2f}")
    print_row("by the clock", [{name: run.clock_s for name, run in pair.items()} for pair in pairs[1:]])
    print_row("of the processor", [{name: run.processor_s for name, run in pair.items()} for pair in pairs[1:]])
    for part in pairs[0]["now"].parts_s:
        print_row(part, [{name: run.parts_s[part] for name, run in pair.items()} for pair in pairs[1:]])


def print_row(what: str, pairs: list[dict[str, float]]) -> None:
    """Prints the seconds of both, and their ratio."""
    both = [f"{name} {spread([pair[name] for pair in pairs], '.2f')} s" for name in ("before", "now")]
    medians = [statistics.median(pair[name] for pair in pairs) for name in ("now", "before")]
    ratios = spread([pair["now"] / pair["before"] for pair in pairs], ".3f")
    print(f"{what:16} {', '.join(both)}; ratio {medians[0] / medians[1]:.3f}, of each pair {ratios}")


if __name__ == "__main__":
    main()
