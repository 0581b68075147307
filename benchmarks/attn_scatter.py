# SPDX-License-Identifier: Apache-2.0
"""Measures prefill with scattered attention input beside the plain way, part by part, in one run.

Every rank is a process of its own, over Gloo. A step is what a decoder layer of DeepSeek-V3 does where the
ways differ: sum of the previous output, input norm with residual, `fused_qkv_a_proj` (7168 → 2112), sum of the
attention output, norm before the experts. Attention and experts themselves are the same in all and left out.

* plain: all-reduce, norm of all rows, projection of all rows; all-reduce, norm of all rows.
* scattered: reduce-scatter, norm and projection of the own rows, gather of 2112 columns; the rest as plain.
* scattered, uneven: the same without padding where the ranks do not divide the rows.
* full: also reduce-scatter, norm of the own rows, gather of 7168 columns in place of the second all-reduce.
* full, FP8 wire: with that gather in FP8.

The ways take turns within a run. A part's ratio is its time over the plain way's; norms and projection on own rows
should take 1/tp of it, and the ideal of the collectives is the ratio of the bytes.

    python benchmarks/attn_scatter.py                  # TP 2 and 4, 256 rows, float32
    python benchmarks/attn_scatter.py --rows 2048 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from datetime import timedelta
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from report import print_machine, spread  # noqa: E402

from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter import layers as attn_scatter  # noqa: E402
from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter, LayerParts, Norm, ScatteredStream  # noqa: E402
from vllm_ascend_ext.attn_scatter.row_layouts import PartialSum, Replicated, RowSplit, own_rows  # noqa: E402
from vllm_ascend_ext.collectives.collectives import Collectives  # noqa: E402
from vllm_ascend_ext.ops.add_rms_norm import add_rms_norm  # noqa: E402

HIDDEN, LATENT, EPS = 7168, 1536 + 512 + 64, 1e-6
WAYS: dict[str, dict[str, bool] | None] = {
    "plain": None,
    "scattered": {},
    "scattered, uneven": {"uneven": True},
    "full": {"full": True},
    "full, FP8 wire": {"full": True, "fp8_wire": True},
}
PARTS = ("collectives", "norm", "qkv_a", "other", "total")


class Clock:
    """Seconds of each part of a step. Calls within a timed call count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._timing = False

    def timed(self, part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._timing:
                return function(*args, **kwargs)
            self._timing = True
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self._timing = False

        return call


class TimedCollectives:
    """Times each call of `Collectives`."""

    def __init__(self, collectives: Collectives, clock: Clock) -> None:
        self.rank, self.num_ranks = collectives.rank, collectives.num_ranks
        for name in (
            "all_reduce_",
            "all_gather_into",
            "reduce_scatter_into",
            "all_gather_variable",
            "reduce_scatter_variable",
        ):
            setattr(self, name, clock.timed("collectives", getattr(collectives, name)))


class Step:
    """Runs one step each way, over the same rows."""

    def __init__(self, collectives: Collectives, num_rows: int, dtype: torch.dtype) -> None:
        torch.manual_seed(collectives.rank)
        self.clock = Clock()
        self.collectives: Any = TimedCollectives(collectives, self.clock)
        self.add_norm = self.clock.timed("norm", add_rms_norm)
        attn_scatter.add_rms_norm = self.add_norm  # so that the layer's own norms are timed too
        weight = torch.ones(HIDDEN, dtype=dtype)
        self.norm = Norm(weight, EPS, self.clock.timed("norm", self._norm))
        projection = torch.randn(LATENT, HIDDEN).to(dtype)
        self.project = self.clock.timed("qkv_a", lambda x: torch.nn.functional.linear(x, projection))
        self.rows = torch.randn(num_rows, HIDDEN).to(dtype)
        self.residual, self.zeros = (
            torch.randn(num_rows, HIDDEN).to(dtype),
            torch.zeros(num_rows, HIDDEN, dtype=dtype),
        )
        whole, num_ranks = Replicated(self.residual, "residual"), collectives.num_ranks
        self.own_residual = {
            uneven: own_rows(whole, RowSplit.even(num_rows, num_ranks, is_padded=not uneven), collectives.rank)
            for uneven in (False, True)
        }
        self.output, self.attended = torch.empty_like(self.rows), torch.empty_like(self.rows)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return add_rms_norm(x, self.zeros, self.norm.weight, EPS)[0]

    def plain(self) -> None:
        self.collectives.all_reduce_(self.output)
        normed, residual = self.add_norm(self.output, self.residual, self.norm.weight, EPS)
        self.project(normed)
        self.collectives.all_reduce_(self.attended)
        self.add_norm(self.attended, residual, self.norm.weight, EPS)

    def scattered(self, options: dict[str, bool]) -> None:
        scatter = AttentionScatter(self.collectives, **options)
        parts = LayerParts(
            "layer",
            self.norm,
            self.project,
            lambda latent, positions: self.attended,
            self.norm,
            lambda x, logits: x,
        )
        residual = self.own_residual[scatter.uneven]
        scatter.layer(parts, ScatteredStream(PartialSum(self.output, "output"), residual), torch.empty(0))

    def run(self, way: str) -> dict[str, float]:
        """Seconds of each part."""
        self.output.copy_(self.rows)
        self.attended.copy_(self.rows)
        dist.barrier()
        self.clock.seconds.clear()
        started = time.perf_counter()
        options = WAYS[way]
        self.plain() if options is None else self.scattered(options)
        total = time.perf_counter() - started
        seconds = dict(self.clock.seconds)
        return seconds | {"other": total - sum(seconds.values()), "total": total}


def _rank(rank: int, num_ranks: int, folder: str, arguments: argparse.Namespace, results: Any) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=num_ranks, timeout=timedelta(seconds=300)
    )
    collectives = Collectives(dist.group.WORLD, 300.0, "benchmark")
    step = Step(collectives, arguments.rows, getattr(torch, arguments.dtype))
    with torch.inference_mode():
        for way in WAYS:
            step.run(way)
        seconds = {way: [] for way in WAYS}
        for _ in range(arguments.turns):
            for way in WAYS:
                seconds[way].append(step.run(way))
    if rank == 0:
        results.put(seconds)
    dist.barrier()


def measure(num_ranks: int, arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Returns [way][turn][part] seconds on rank 0."""
    context = mp.get_context("fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(rank, num_ranks, folder, arguments, results), daemon=True)
            for rank in range(num_ranks)
        ]
        for process in ranks:
            process.start()
        seconds = results.get(timeout=900)
        for process in ranks:
            process.join(60)
    return seconds


def _ideal(way: str, part: str, num_ranks: int, arguments: argparse.Namespace) -> float | None:
    """Returns what the ratio would be if time went by rows, or by bytes for the collectives."""
    options = WAYS[way]
    if options is None or part in ("other", "total"):
        return None
    layer = LayerSizes(HIDDEN, LATENT, getattr(torch, arguments.dtype).itemsize)
    if part == "collectives":
        sent = scatter_cost.scattered_layer(layer, arguments.rows, num_ranks, **options)
        return sent / scatter_cost.plain_layer(layer, arguments.rows, num_ranks)
    both = part == "norm" and not options.get("full")
    return (1 + 1 / num_ranks) / 2 if both else 1 / num_ranks


def report(num_ranks: int, seconds: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    print(f"\nTP{num_ranks}, {arguments.rows} rows, {arguments.dtype}: ms, and the ratio to plain (ideal)")
    for way, turns in seconds.items():
        print(f"  {way}")
        for part in PARTS:
            times = [turn.get(part, 0.0) * 1e3 for turn in turns]
            plain = [turn.get(part, 0.0) * 1e3 for turn in seconds["plain"]]
            line = f"    {part:12} {spread(times, '.1f', '9')}"
            if way != "plain" and part != "other":
                ratio = statistics.median(t / p for t, p in zip(times, plain, strict=True))
                ideal = _ideal(way, part, num_ranks, arguments)
                line += f"   ratio {ratio:.3f}" + (f" (ideal {ideal:.3f})" if ideal is not None else "")
            print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    arguments = parser.parse_args()
    print_machine(torch)
    for num_ranks in arguments.ranks:
        report(num_ranks, measure(num_ranks, arguments), arguments)


if __name__ == "__main__":
    main()
