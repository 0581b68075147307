# SPDX-License-Identifier: Apache-2.0
"""Inputs that every rank can compute for every other, and what collectives make of them in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

HALF_TYPES = (torch.float16, torch.bfloat16)
# what torch_npu lets HCCL reduce; bool and uint8 travel as int32
REDUCED_TYPES = (
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, *HALF_TYPES, torch.float32,
)  # fmt: skip
MOVED_TYPES = (*REDUCED_TYPES, torch.float64, torch.uint16, torch.uint32, torch.uint64)
OPERATIONS: dict[dist.ReduceOp.RedOpType, Callable[[Tensor, Tensor], Tensor]] = {
    dist.ReduceOp.SUM: torch.add,
    dist.ReduceOp.PRODUCT: torch.mul,
    dist.ReduceOp.MAX: torch.maximum,
    dist.ReduceOp.MIN: torch.minimum,
}


def values(seed: int, rank: int, size: int, dtype: torch.dtype) -> Tensor:
    """Returns a rank's input on the CPU."""
    generator = torch.Generator().manual_seed(seed * 1009 + rank)
    if dtype.is_floating_point:
        return torch.randn(size, generator=generator).to(dtype)
    high = 2 if dtype == torch.bool else 100
    return torch.randint(0, high, (size,), generator=generator).to(dtype)


def reduced(parts: list[Tensor], operation: dist.ReduceOp.RedOpType) -> Tensor:
    """Reduces in rank order; half types in float32, so the result is exact to the bit."""
    dtype = parts[0].dtype
    if dtype == torch.bool and operation == dist.ReduceOp.SUM:
        operation = dist.ReduceOp.MAX  # as torch_npu does it
    wide = {**dict.fromkeys(HALF_TYPES, torch.float32), torch.bool: torch.int32, torch.uint8: torch.int32}
    return reduce(OPERATIONS[operation], [part.to(wide.get(dtype, dtype)) for part in parts]).to(dtype)


def check(name: str, actual: Tensor, expected: Tensor) -> None:
    """Checks equality to the bit, wherever `actual` lies."""
    actual = actual.cpu()
    if actual.dtype != expected.dtype or not torch.equal(actual, expected):
        raise AssertionError(f"{name}, {expected.dtype}:\n{actual}\nnot\n{expected}")
