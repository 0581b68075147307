# SPDX-License-Identifier: Apache-2.0
"""Measures what the operators cost: the AscendC kernels counted on the emulated cores, the others timed.

Kernels: bytes of global memory over the least they must move, vector and scalar work, and a predicted time on a
910B from published figures (nothing here was run on an NPU). Operators: median time against the torch expression
they replace, and the share of the copy bandwidth measured in the same run; on the CPU, and on a GPU where there
is one.

    python -m benchmarks.ops [--kernels] [--devices cpu cuda] [--repeats 30]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from benchmarks.report import print_machine, spread  # noqa: E402
from tests.ops.cases import counts_case, load_case, norm_case, pack_case  # noqa: E402
from tests.ops.host_kernels import LIBRARY, HostKernels, Statistics  # noqa: E402
from tests.ops.traffic import least_bytes  # noqa: E402
from tests.support.host_build import host_library  # noqa: E402
from vllm_ascend_ext import ops  # noqa: E402

# 910B1: CANN's platform configuration and the documentation's "GM ~1.6 TB/s"
CORES, CLOCK_HZ, GM_BYTES_PER_S, GM_BYTES_PER_CYCLE = 48, 1.85e9, 1.6e12, 32
# A launch with all cores takes 20 to 21 us by the documentation, which says that fewer cores start sooner (best
# practices of Ascend C, "Setting a Proper Number of Cores"); taken whole, for no figure of fewer is published.
# Cycles of vector instructions come from csrc_ascendc/host/vector_cycles.h, which has their sources.
LAUNCH_S = 20.5e-6
# assumptions, no published figure: cycles of a scalar access to the unified buffer, cycles to issue a copy
SCALAR_CYCLES, COPY_CYCLES = 8, 64


@dataclass(frozen=True)
class Case:
    op: str
    shape: str
    arguments: tuple[Any, ...]
    replaced: Callable[..., Any]  # the torch expression, with the same arguments


def load_expression(load: torch.Tensor, ids: torch.Tensor, num_tokens: torch.Tensor) -> None:
    load += torch.bincount(ids[: int(num_tokens)].flatten(), minlength=load.shape[0])


def counts_expression(load: torch.Tensor, counts: torch.Tensor, is_cumsum: bool) -> None:
    load += torch.cat([counts[:1], counts[1:] - counts[:-1]]) if is_cumsum else counts


def pad_expression(local: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
    return F.pad(local[:rows], (0, 0, offset, total - rows - offset))


def norm_expression(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> Any:
    total = x + residual
    return F.rms_norm(total, (x.shape[1],), weight, eps), total


def pack_expression(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in tensors]  # one copy to the host each


def cases() -> list[Case]:
    found = []
    for rows, dtype in ((256, torch.int32), (4096, torch.int32), (65536, torch.int32), (65536, torch.int64)):
        load, ids, num_tokens = load_case(rows, 8, 256, dtype, seed=1)
        ids = ids.clamp(0, 255)  # torch.bincount takes no others
        arguments = (load, ids, num_tokens.fill_(rows)[0])
        found.append(Case("expert_load_add_", f"T {rows} K 8 E 256 {dtype}", arguments, load_expression))
    for is_cumsum in (False, True):
        counted = (*counts_case(256, is_cumsum, torch.int64, seed=1), is_cumsum)
        found.append(Case("expert_load_add_counts_", f"E 256 cumsum {is_cumsum}", counted, counts_expression))
    for rows, total in ((256, 1024), (4096, 4352)):
        local = torch.randn(rows, 7168).to(torch.bfloat16)
        shape = f"T {rows} H 7168 of {total} bfloat16"
        found.append(Case("dp_pad", shape, (local, rows, 64, total), pad_expression))
        packed = ops.dp_pad(local, rows, 64, total)
        found.append(Case("dp_unpad", shape, (packed, rows, 64), lambda t, n, at: t[at : at + n].clone()))
    for rows, width, dtype in (
        (1024, 7168, torch.bfloat16),
        (4096, 7168, torch.bfloat16),
        (4096, 2112, torch.float32),
    ):
        shape = f"T {rows} H {width} {dtype}"
        found.append(Case("add_rms_norm", shape, norm_case(rows, width, dtype, 1), norm_expression))
    for batch, slots, top_k in ((256, 2, 0), (256, 4, 20)):
        tensors = tuple(pack_case(batch, slots, top_k, 1))
        found.append(Case("mtp_pack_output", f"B {batch} S {slots} K {top_k}", tensors, pack_expression))
    return found


def kernel_row(case: Case, s: Statistics) -> str:
    moved = s.gm_bytes_read + s.gm_bytes_written
    gm = max(moved / GM_BYTES_PER_S, moved / CORES / (GM_BYTES_PER_CYCLE * CLOCK_HZ))
    vector = s.most_vector_cycles / CLOCK_HZ
    scalar = (s.most_scalar_accesses * SCALAR_CYCLES + s.most_copies * COPY_CYCLES) / CLOCK_HZ
    large, on_line = 1 - s.small_copies / s.copies, 1 - s.unaligned_copies / s.copies
    parts = "".join(
        f"{seconds * 1e6:8.2f}" for seconds in (gm, vector, scalar, max(gm, vector, scalar) + LAUNCH_S)
    )
    ratio = moved / least_bytes(case.op, case.arguments)
    return f"{case.op:25}{case.shape:36}{ratio:9.3f}{large:7.0%}{on_line:7.0%}{s.vector_instructions:9}{parts}"


def print_kernels() -> None:
    kernels = HostKernels(host_library(LIBRARY))
    print(
        f"\nAscendC kernels on {CORES} emulated cores. Copies of 16 KB or more, and on 512 B; vector instructions."
    )
    print(
        f"Predicted us on 910B1: GM traffic, the slowest core's vector and scalar work; total: most + {LAUNCH_S}"
    )
    columns = "".join(f"{name:>8}" for name in ("GM", "vector", "scalar", "total"))
    print(f"{'operator':25}{'shape':36}{'GM/least':>9}{'>=16K':>7}{'512 B':>7}{'vector':>9}{columns}")
    for case in cases():
        getattr(kernels, case.op)(*(a.clone() if isinstance(a, torch.Tensor) else a for a in case.arguments))
        print(kernel_row(case, kernels.statistics))


def times(function: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Seconds of each call, after three that do not count."""
    found = []
    for index in range(repeats + 3):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        if index >= 3:
            found.append(time.perf_counter() - start)
    return found


def microseconds(values: list[float]) -> str:
    return spread([value * 1e6 for value in values], ".1f")


def print_operators(device: str, repeats: int) -> None:
    source = torch.empty(1 << 28 if device == "cuda" else 1 << 24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / statistics.median(times(lambda: target.copy_(source), device, repeats))
    print(f"\n{device}: copies {bandwidth / 1e9:.1f} GB/s (read + written); median [middle half] of {repeats}, us")
    print(f"{'operator':25}{'shape':36}{'ours':>28}{'torch':>28}{'faster':>8}{'of copy':>9}")
    for case in cases():
        arguments = [a.to(device) if isinstance(a, torch.Tensor) else a for a in case.arguments]
        ours = times(lambda: getattr(torch.ops.ascend_ext, case.op)(*arguments), device, repeats)  # noqa: B023
        theirs = times(lambda: case.replaced(*arguments), device, repeats)  # noqa: B023
        median = statistics.median(ours)
        share = least_bytes(case.op, case.arguments) / median / bandwidth
        print(
            f"{case.op:25}{case.shape:36}{microseconds(ours):>28}{microseconds(theirs):>28}"
            f"{statistics.median(theirs) / median:8.2f}{share:9.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", action="store_true", help="the AscendC kernels only")
    here = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--devices", nargs="*", default=here)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    print_machine(torch, accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else "")
    print_kernels()
    for device in [] if arguments.kernels else arguments.devices:
        print_operators(device, arguments.repeats)


if __name__ == "__main__":
    main()
