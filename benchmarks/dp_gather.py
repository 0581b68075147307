# SPDX-License-Identifier: Apache-2.0
"""Measures DP gather by every mode: what it takes, what the rules choose, and how far that is from the best.

The machine is measured (each collective over a range of sizes): that is the description which the rule "cost"
needs, and which `--write-machine FILE` keeps for `dp_gather.machine`. In the same rounds, for each size and skew,
one layer's gather of hidden states and router logits, the expert layer's work on gathered rows without its matrix
products (those are equal in all modes), and the combine. A round runs everything in a new order; a time is the
median over the rounds of the slowest rank's.

    python benchmarks/dp_gather.py --ranks 2 4
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from report import print_machine  # noqa: E402

from vllm_ascend_ext.collectives.collectives import Collectives  # noqa: E402
from vllm_ascend_ext.dp_gather.exchange import DpGather  # noqa: E402
from vllm_ascend_ext.dp_gather.machine import Curve, Machine, read  # noqa: E402
from vllm_ascend_ext.dp_gather.plan import GatherPlan, make_plan  # noqa: E402
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths  # noqa: E402
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology  # noqa: E402
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks  # noqa: E402

MAX_LEN, SUM_LEN, VARIABLE = GatherMode
HIDDEN, EXPERTS, TOP_K = 1024, 64, 8
WIDTHS = RowWidths((4 * HIDDEN, 4 * EXPERTS), 4 * HIDDEN)
CURVES_KB = (1, 8, 32, 128, 512, 2048, 8192, 32768)  # of the whole buffer, in the calibration
CURVES = {  # mode, direction, whether one rank has all rows
    "all_gather": (MAX_LEN, "gather", False),
    "reduce_scatter": (MAX_LEN, "combine", False),
    "all_reduce": (SUM_LEN, "combine", False),
    "all_gather_variable": (VARIABLE, "gather", False),
    "all_gather_one_long": (VARIABLE, "gather", True),
    "reduce_scatter_variable": (VARIABLE, "combine", False),
    "reduce_scatter_one_long": (VARIABLE, "combine", True),
}
EXPERT_ROWS = (64, 2048)


def skews(rows: int, num_ranks: int) -> dict[str, list[int]]:
    """Returns the rows of the replicas where one that is busy has `rows`."""
    chance = random.Random(rows)
    return {
        "balanced": [rows] * num_ranks,
        "random": [chance.randint(1, rows) for _ in range(num_ranks)],
        "half": [rows if replica % 2 == 0 else max(rows // 8, 1) for replica in range(num_ranks)],
        "one long": [rows, *[max(rows // 64, 1)] * (num_ranks - 1)],
        "one busy": [rows, *[0] * (num_ranks - 1)],
    }


class Bench:
    """Runs one rank's side of the measurements."""

    def __init__(self, num_rounds: int) -> None:
        dist.init_process_group("gloo")
        self.group = Collectives(dist.group.WORLD, 120.0, "benchmark")
        self.gather = DpGather(self.group)
        self.num_rounds = num_rounds
        self.topology = Topology(self.group.num_ranks)

    def times(self, variants: dict[Any, Callable[[], object]]) -> dict[Any, float]:
        """Returns the median seconds of the slowest rank, all variants in each round, in a new order."""
        order = random.Random(1)  # the same on all ranks
        taken: dict[Any, list[float]] = {name: [] for name in variants}
        for index in range(self.num_rounds + 1):
            for name in order.sample(list(variants), len(variants)):
                dist.barrier()
                started = time.perf_counter()
                variants[name]()
                elapsed = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
                dist.all_reduce(elapsed, dist.ReduceOp.MAX)
                if index:  # the first round warms up
                    taken[name].append(elapsed.item())
        return {name: statistics.median(values) for name, values in taken.items()}

    def plan(self, counts: list[int], mode: GatherMode) -> GatherPlan:
        return make_plan(counts, self.topology, WIDTHS, mode=mode)

    def leg(self, num_bytes: int, mode: GatherMode, way: str, one_long: bool) -> Callable[[], object]:
        """Makes one direction of an exchange of `num_bytes` in all."""
        num_ranks, rank = self.group.num_ranks, self.group.rank
        num_rows = num_ranks if not one_long else 1
        counts = [1] * num_ranks if not one_long else [1, *[0] * (num_ranks - 1)]
        plan = self.plan(counts, mode)
        width = max(num_bytes // num_rows // 4, 1)
        rows = plan.rows.held[rank] if way == "gather" else plan.rows.num_rows
        x = torch.ones(rows, width)

        def run() -> None:
            with self.gather.under(plan):
                getattr(self.gather, way)(x)

        return run

    def expert_rows(self, hidden_NH: torch.Tensor, logits_NE: torch.Tensor) -> torch.Tensor:
        """Makes what a row costs that no expert takes: routing, and an output of zeros in float32."""
        logits_NE.softmax(dim=-1).topk(TOP_K, dim=-1)
        return torch.zeros(hidden_NH.shape, dtype=torch.float32).to(hidden_NH.dtype)

    def legs(self) -> dict[Any, Callable[[], object]]:
        """Makes one call for each (curve, KB), and the rows of the expert layer."""
        legs: dict[Any, Callable[[], object]] = {
            (name, kb): self.leg(kb << 10, *kind) for name, kind in CURVES.items() for kb in CURVES_KB
        }
        for num_rows in EXPERT_ROWS:
            hidden_NH, logits_NE = torch.ones(num_rows, HIDDEN), torch.randn(num_rows, EXPERTS)
            legs["rows", num_rows] = functools.partial(self.expert_rows, hidden_NH, logits_NE)
        return legs

    def machine(self, taken: dict[Any, float]) -> Machine:
        """Returns the description that these times of `legs` make."""
        few, many = EXPERT_ROWS
        row_s = max(taken["rows", many] - taken["rows", few], 0.0) / (many - few)
        return Machine(
            name="measured",
            source=f"benchmarks/dp_gather.py, {self.group.num_ranks} ranks over Gloo",
            num_ranks=self.group.num_ranks,
            pad_byte_s=row_s / sum(WIDTHS.dispatch),
            **{name: Curve(tuple((kb << 10, taken[name, kb]) for kb in CURVES_KB)) for name in CURVES},
        )

    def layer(self, counts: list[int], mode: GatherMode) -> Callable[[], object]:
        plan = self.plan(counts, mode)
        held = plan.rows.held[self.group.rank]
        hidden_SH, logits_SE = torch.ones(held, HIDDEN), torch.randn(held, EXPERTS)

        def run() -> None:
            with self.gather.under(plan):
                hidden_NH, logits_NE = self.gather.gather(hidden_SH), self.gather.gather(logits_SE)
                self.gather.combine(self.expert_rows(hidden_NH, logits_NE))

        return run


Cell = tuple[str, list[int], dict[str, float]]  # skew, counts, seconds by mode


def measure(rank: Rank, sizes: list[int], num_rounds: int) -> tuple[str, list[Cell]]:
    """Returns the machine as JSON, and all cells. Both are measured in the same rounds: a shared machine's speed
    drifts within seconds, and what is judged is the rule and not the drift."""
    torch.manual_seed(rank.rank)
    bench = Bench(num_rounds)
    cells = [(rows, name, counts) for rows in sizes for name, counts in skews(rows, bench.group.num_ranks).items()]
    layers = {(rows, name, mode): bench.layer(counts, mode) for rows, name, counts in cells for mode in GatherMode}
    taken = bench.times(bench.legs() | layers)
    return bench.machine(taken).to_json(), [
        (name, counts, {mode.value: taken[rows, name, mode] for mode in GatherMode})
        for rows, name, counts in cells
    ]


def report(machine: Machine, cells: list[Cell]) -> list[tuple[float, float]]:
    """Prints a line for each cell; returns (cost's, SGLang's) time over the best mode's."""
    topology, ratios = Topology(machine.num_ranks), []
    print(f"\n{machine.num_ranks} ranks; ms by mode, measured (predicted); the rules' choices: time / best")
    for skew, counts, taken in cells:
        cost = make_plan(counts, topology, WIDTHS, rule="cost", machine=machine)
        auto = make_plan(counts, topology, WIDTHS)
        best = min(taken.values())
        ratio = taken[cost.mode.value] / best, taken[auto.mode.value] / best
        times = "  ".join(
            f"{c.mode.value} {1e3 * taken[c.mode.value]:8.3f} ({1e3 * (c.cost.seconds or 0):8.3f})"
            for c in cost.candidates
        )
        choices = f"cost {cost.mode.value:8} {ratio[0]:.3f}  auto {auto.mode.value:8} {ratio[1]:.3f}"
        print(f"  {max(counts):5} {skew:9} {times}  {choices}")
        ratios.append(ratio)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 32, 256, 1024], help="of a busy replica")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write-machine", type=Path, metavar="FILE", help="the last --ranks' description")
    arguments = parser.parse_args()
    print_machine(torch, setting=f"Gloo, H {HIDDEN} float32, E {EXPERTS}, {arguments.rounds} rounds")
    ratios: list[tuple[float, float]] = []
    for num_ranks in arguments.ranks:
        text, cells = run_ranks(
            lambda rank: measure(rank, arguments.rows, arguments.rounds), Layout(dp=num_ranks), deadline_s=1800
        )[0]
        file = arguments.write_machine or Path(".cache", f"machine-{num_ranks}.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        ratios += report(read(file), cells)
        print(f"machine description: {file}")
    worse = max(cost / auto for cost, auto in ratios)
    print(f"cost's time / auto's in the worst cell: {worse:.3f}")
    for index, rule in enumerate(("cost", "auto")):
        values = [ratio[index] for ratio in ratios]
        print(f"{rule}: time / best mode's: median {statistics.median(values):.3f}, worst {max(values):.3f}")


if __name__ == "__main__":
    main()
